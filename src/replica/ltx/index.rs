//! The index of pages: where each page of a file begins, and its length.

/// The records of the index while a file is written, as small as they go: the distance to the previous number, and the
/// length. The offsets follow from the lengths.
#[derive(Default)]
pub(super) struct Index {
    packed: Vec<u8>,
    last: u32,
}

impl Index {
    pub(super) fn push(&mut self, page: u32, size: u64) {
        put_varint(&mut self.packed, u64::from(page - self.last));
        put_varint(&mut self.packed, size);
        self.last = page;
    }

    /// Gives the records one after another, as a file has them.
    pub(super) fn records(&self, mut offset: u64) -> impl Iterator<Item = Record> {
        let mut packed = self.packed.as_slice();
        let mut page = 0;
        std::iter::from_fn(move || {
            page += take_varint(&mut packed)?;
            let size = take_varint(&mut packed)?;
            let record = Record::new(page, offset, size);
            offset += size;
            Some(record)
        })
    }
}

/// A record of the index, as a file has it.
pub(super) struct Record {
    bytes: [u8; 30],
    len: usize,
}

impl Record {
    pub(super) fn new(page: u64, offset: u64, size: u64) -> Self {
        let mut bytes = [0; 30];
        let mut len = 0;
        for mut value in [page, offset, size] {
            while value >= 0x80 {
                bytes[len] = value as u8 | 0x80;
                value >>= 7;
                len += 1;
            }
            bytes[len] = value as u8;
            len += 1;
        }
        Self { bytes, len }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
