//! Damaged files are noticed, whatever was changed, and cost no memory.

use larder::replica::ltx::{Decoder, LtxError, PageProblem};

use super::{File, golden, header};

/// Some files of both kinds, with pages that compress and pages that do not.
fn samples() -> Vec<Vec<u8>> {
    let noise = (0..512u32).map(|n| (n * n % 251) as u8).collect();
    let file = File {
        header: header(512, 9, (2, 4)),
        pages: vec![(1, vec![0; 512]), (3, noise), (9, b"abcd".repeat(128))],
    };
    let mut samples = vec![file.encode()];
    samples.extend(golden::files("0.5.14"));
    samples.extend(golden::files("0.5.17"));
    samples
}

/// Where the compressed bytes of pages are.
fn compressed(bytes: &[u8]) -> Vec<bool> {
    let mut is_compressed = vec![false; bytes.len()];
    let mut at = 100;
    while bytes[at..at + 6] != [0; 6] {
        let begin = at + 6;
        if bytes[at + 5] == 1 {
            let length = u32::from_be_bytes(bytes[begin..begin + 4].try_into().unwrap()) as usize;
            is_compressed[begin + 4..begin + 4 + length].fill(true);
            at = begin + 4 + length;
        } else {
            let length = u32::from_le_bytes(bytes[begin + 7..begin + 11].try_into().unwrap()) & 0x7fff_ffff;
            at = begin + 11 + length as usize + 8;
            is_compressed[begin..at].fill(true);
        }
    }
    is_compressed
}

/// The checksum of a file covers the contents of pages as they are inflated. So some bits of compressed bytes may change
/// with no effect; every other change is an error.
#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let (mut noticed, mut harmless) = (0, 0);
    for sample in samples() {
        let wanted = File::decode(sample.as_slice()).unwrap();
        let compressed = compressed(&sample);
        for bit in 0..sample.len() * 8 {
            let mut bytes = sample.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match File::decode(bytes.as_slice()) {
                Err(_) => noticed += 1,
                Ok(found) => {
                    assert!(compressed[bit / 8], "bit {bit} was not noticed");
                    assert!(found == wanted, "bit {bit} changed the pages");
                    harmless += 1;
                }
            }
        }
    }
    println!("{noticed} noticed, {harmless} without an effect");
    assert!(noticed > 50 * harmless, "{noticed} {harmless}");
}

#[test]
fn file_cut_anywhere_is_truncated() {
    for sample in samples() {
        for length in 0..sample.len() {
            let error = File::decode(&sample[..length]).unwrap_err();
            assert!(matches!(error, LtxError::Truncated(_)), "{length}: {error}");
        }
    }
}

#[test]
fn bytes_behind_the_trailer_are_an_error() {
    for mut sample in samples() {
        sample.push(0);
        assert!(matches!(File::decode(sample.as_slice()), Err(LtxError::Trailing)));
    }
}

#[test]
fn length_beyond_a_page_is_refused() {
    let mut file = samples().swap_remove(0);
    file[106..110].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = File::decode(file.as_slice()).unwrap_err();
    let LtxError::Page {
        page: 1,
        problem: PageProblem::Length { length: u32::MAX, most },
    } = error
    else {
        panic!("{error}");
    };
    assert!((512..1024).contains(&most), "{most}");
}

#[test]
fn frame_block_beyond_a_page_is_refused() {
    for length in [0x7fff_ffff_u32, 0xffff_ffff, 0x8000_0000, 4096] {
        let mut file = golden::files("0.5.14").swap_remove(0);
        file[113..117].copy_from_slice(&length.to_le_bytes());
        let error = File::decode(file.as_slice()).unwrap_err();
        assert!(
            matches!(
                error,
                LtxError::Page {
                    page: 1,
                    problem: PageProblem::Frame
                }
            ),
            "{length}: {error}"
        );
    }
}

/// A block that says that it goes on for long, and one that inflates to less than a page.
#[test]
fn page_of_another_size_is_refused() {
    let begin = header(512, 9, (2, 4));
    let page = |block: &[u8]| {
        let mut bytes = File {
            header: begin,
            pages: Vec::new(),
        }
        .encode();
        bytes.truncate(100);
        bytes.extend([0, 0, 0, 1, 0, 1]);
        bytes.extend((block.len() as u32).to_be_bytes());
        bytes.extend(block);
        bytes.resize(bytes.len() + 1024, 0);
        File::decode(bytes.as_slice()).unwrap_err()
    };
    // A literal of one byte, and a match that repeats it 15 + 255 * 200 times and more.
    let mut long = vec![0x1f, b'a', 1, 0];
    long.extend([255; 200]);
    long.extend([0, 0x10, b'b']);
    assert!(matches!(
        page(&long),
        LtxError::Page {
            page: 1,
            problem: PageProblem::Compression
        }
    ));
    assert!(matches!(
        page(&[0x20, b'a', b'b']),
        LtxError::Page {
            page: 1,
            problem: PageProblem::Size(2)
        }
    ));
}

#[test]
fn foreign_files_are_named() {
    let decode = |bytes: &[u8]| Decoder::new(bytes).err().unwrap().to_string();
    let mut database = b"SQLite format 3\0".to_vec();
    database.resize(512, 0);
    assert_eq!(
        decode(&database),
        "no LTX file: it begins with [53, 51, 4c, 69] instead of \"LTX1\""
    );
    let mut with_checksums = samples().swap_remove(0);
    with_checksums[7] = 0;
    assert_eq!(
        decode(&with_checksums),
        "the header's flag word is 0: only 2, a file without checksums of the database, is known"
    );
    assert_eq!(decode(b""), "the file ends inside the header");
}

#[test]
fn index_that_does_not_match_is_refused() {
    let file = File {
        header: header(512, 9, (2, 4)),
        pages: vec![(1, vec![0; 512]), (9, vec![1; 512])],
    };
    let bytes = file.encode();
    // Two records of three bytes are before the zero, the length and the trailer.
    let begin = bytes.len() - 16 - 8 - 1 - 6;
    assert_eq!(bytes[begin..begin + 2], [1, 100], "{:?}", &bytes[begin..]);
    let mut other = bytes.clone();
    other[begin + 1] = 101;
    assert!(matches!(File::decode(other.as_slice()), Err(LtxError::Index)));
}
