//! Damage to the bytes of a file.

use arbitrary::Arbitrary;

/// One kind of damage to a file.
#[derive(Arbitrary, Debug)]
pub enum Damage<'a> {
    /// Overwrites bytes of a page: a page's header is at its start.
    InPage { page: u8, at: u16, bytes: &'a [u8] },
    /// Overwrites bytes at the start of the file.
    InHeader { at: u8, bytes: [u8; 4] },
    /// Flips one bit.
    Bit { at: u32, bit: u8 },
    /// Replaces a page by another.
    Misplaced { from: u8, to: u8 },
    /// Zeroes a page, as if it was never written.
    Zeroed { page: u8 },
    /// Truncates the file.
    Cut { at: u32 },
    /// Appends bytes to the file.
    Longer { bytes: &'a [u8] },
}

impl Damage<'_> {
    /// Applies the damage. Positions beyond the end of the file wrap around.
    pub fn apply(&self, file: &mut Vec<u8>, page_size: usize) {
        let length = file.len();
        if let Self::Longer { bytes } = self {
            return file.extend_from_slice(bytes);
        }
        if length == 0 {
            return;
        }
        let pages = length.div_ceil(page_size);
        let begin = |page: u8| usize::from(page) % pages * page_size;
        match *self {
            Self::InPage { page, at, bytes } => write(file, begin(page) + usize::from(at) % page_size, bytes),
            Self::InHeader { at, bytes } => write(file, usize::from(at) % 100, &bytes),
            Self::Bit { at, bit } => file[at as usize % length] ^= 1 << (bit % 8),
            Self::Misplaced { from, to } => {
                let from = begin(from);
                let page = file[from..length.min(from + page_size)].to_vec();
                write(file, begin(to), &page);
            }
            Self::Zeroed { page } => write(file, begin(page), &vec![0; page_size]),
            Self::Cut { at } => file.truncate(at as usize % length),
            Self::Longer { .. } => unreachable!("done above"),
        }
    }
}

/// Overwrites bytes, up to the end of the file.
fn write(file: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(there) = file.get_mut(at..) {
        let length = there.len().min(bytes.len());
        there[..length].copy_from_slice(&bytes[..length]);
    }
}
