//! Files that Litestream wrote, of both kinds of pages. `golden/make.py` made them.

use std::fs;
use std::path::PathBuf;

use larder::replica::ltx::{Decoder, merge};

use super::File;

/// The version that wrote them, and the flags of their pages.
const VERSIONS: [(&str, u16); 2] = [("0.5.14", 0), ("0.5.17", 1)];

#[test]
fn golden_files_make_the_restored_database() {
    for (version, flags) in VERSIONS {
        let files = files(version);
        assert!(files.len() >= 4, "{version}");
        let mut database = Vec::new();
        for (at, bytes) in files.iter().enumerate() {
            assert_eq!(bytes[104..106], flags.to_be_bytes(), "{version}: the kind of its pages");
            let file = File::decode(bytes.as_slice()).unwrap();
            let txid = at as u64 + 1;
            assert_eq!((file.header.min_txid, file.header.max_txid), (txid, txid), "{version}");
            assert_eq!(file.header.page_size, 512, "{version}");
            assert!(
                file.header.wal_offset >= 32 && file.header.wal_salts != [0, 0],
                "{version}"
            );
            file.apply(&mut database);
        }
        assert!(database == restored(version), "{version}");
    }
}

#[test]
fn merged_golden_files_make_the_restored_database() {
    for (version, _) in VERSIONS {
        let files = files(version);
        let decoders = files
            .iter()
            .map(|bytes| Decoder::new(bytes.as_slice()).unwrap())
            .collect();
        let (merged, _) = merge(decoders, Vec::new()).unwrap();
        let merged = File::decode(merged.as_slice()).unwrap();
        assert_eq!(
            (merged.header.min_txid, merged.header.max_txid),
            (1, files.len() as u64)
        );
        assert_eq!((merged.header.wal_offset, merged.header.wal_salts), (0, [0, 0]));
        let mut database = Vec::new();
        merged.apply(&mut database);
        assert!(database == restored(version), "{version}");
    }
}

/// What follows the header depends on how well a page is compressed.
#[test]
fn encoder_writes_headers_of_golden_files() {
    for bytes in files("0.5.17") {
        let file = File::decode(bytes.as_slice()).unwrap();
        assert_eq!(file.encode()[..100], bytes[..100]);
    }
}

/// The files of a version, in the order of their transactions.
pub(super) fn files(version: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(folder(version))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "ltx"))
        .collect();
    files.sort();
    files.iter().map(|path| fs::read(path).unwrap()).collect()
}

pub(super) fn restored(version: &str) -> Vec<u8> {
    fs::read(folder(version).join("restored.sqlite")).unwrap()
}

fn folder(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/replica/golden")
        .join(version)
}
