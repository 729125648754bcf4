//! Damage to the bytes of a file.

use arbitrary::Arbitrary;

/// One thing that is wrong with a file.
#[derive(Arbitrary, Debug)]
pub enum Damage<'a> {
    /// These bytes stand at that place of that page: a page's header is at its beginning.
    InPage { page: u8, at: u16, bytes: &'a [u8] },
    /// These bytes stand at the beginning of the file.
    InHeader { at: u8, bytes: [u8; 4] },
    /// One bit is another.
    Bit { at: u32, bit: u8 },
    /// A page stands in the place of another.
    Misplaced { from: u8, to: u8 },
    /// A page was never written.
    Zeroed { page: u8 },
    /// The file ends here.
    Cut { at: u32 },
    /// The file goes on with these bytes.
    Longer { bytes: &'a [u8] },
}

impl Damage<'_> {
    /// Does it. Places beyond the end of the file are counted anew from its beginning.
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

/// As far as the file goes.
fn write(file: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(there) = file.get_mut(at..) {
        let length = there.len().min(bytes.len());
        there[..length].copy_from_slice(&bytes[..length]);
    }
}
