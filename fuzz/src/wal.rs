//! The format of a WAL, as far as needed to write one with correct checksums:
//! <https://sqlite.org/fileformat2.html#the_write_ahead_log>.
//!
//! ```text
//! header, 32 bytes   magic  version  page size  sequence  salt 1  salt 2  checksum 1  checksum 2
//! frame: 24 bytes    page   pages of the database after a commit, else 0  salt 1  salt 2  checksum 1  checksum 2
//!        and a page
//! ```
//!
//! All numbers are big-endian, of 32 bits. A frame's checksum continues that of the previous frame, so no checksum
//! after a wrong one is right.

pub const HEADER: usize = 32;
pub const FRAME: usize = 24;

/// Writes correct salts and checksums, so that SQLite accepts every frame.
pub fn seal(log: &mut [u8], page_size: usize) {
    let Some((header, mut frames)) = log.split_at_mut_checked(HEADER) else {
        return;
    };
    // The lowest bit gives the byte order of the summed words.
    let big_endian = header[3] & 1 == 1;
    let mut sum = checksum(big_endian, (0, 0), &header[..24]);
    enter(&mut header[24..], sum);
    let salts = &header[16..24];
    while let Some((frame, rest)) = frames.split_at_mut_checked(FRAME + page_size) {
        frame[8..16].copy_from_slice(salts);
        sum = checksum(big_endian, sum, &frame[..8]);
        sum = checksum(big_endian, sum, &frame[FRAME..]);
        enter(&mut frame[16..FRAME], sum);
        frames = rest;
    }
}

fn enter(place: &mut [u8], sum: (u32, u32)) {
    place[..4].copy_from_slice(&sum.0.to_be_bytes());
    place[4..8].copy_from_slice(&sum.1.to_be_bytes());
}

fn checksum(big_endian: bool, from: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("four bytes");
        if big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    };
    bytes.chunks_exact(8).fold(from, |(one, two), pair| {
        let one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        (one, two.wrapping_add(word(&pair[4..])).wrapping_add(one))
    })
}
