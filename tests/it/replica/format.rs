//! What is encoded, decodes to the same; what is merged, has the effect of all.

use std::collections::BTreeMap;

use larder::replica::ltx::{Decoder, Encoder, Header, LtxError, PageProblem, lock_page, merge};
use proptest::prelude::*;

use super::{File, Slow, header};

/// Contents from a number: zeros, text that compresses, or noise.
fn contents(page_size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    match seed % 3 {
        0 => vec![0; page_size],
        1 => format!("row {seed} ").bytes().cycle().take(page_size).collect(),
        _ => (0..page_size).map(|_| noise()).collect(),
    }
}

/// A file with these pages of the database, and the contents that the seeds make.
fn file(header: Header, pages: impl IntoIterator<Item = (u32, u64)>) -> File {
    let size = header.page_size as usize;
    let pages = pages.into_iter().map(|(page, seed)| (page, contents(size, seed)));
    File {
        header,
        pages: pages.collect(),
    }
}

fn any_header() -> impl Strategy<Value = Header> {
    let sizes = (9..=16u32).prop_map(|power| 1 << power);
    let txids = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| (a.min(b).max(2), a.max(b).max(2)));
    let log = (0..=i64::MAX as u64, 0..=i64::MAX as u64, any::<[u32; 2]>());
    let log = log.prop_map(|(offset, size, salts)| {
        if offset == 0 {
            (0, 0, [0, 0])
        } else {
            (offset, size, salts)
        }
    });
    (sizes, 1..=u32::MAX, txids, any::<i64>(), log, any::<u64>()).prop_map(
        |(page_size, commit, (min_txid, max_txid), timestamp, (wal_offset, wal_size, wal_salts), node_id)| Header {
            page_size,
            commit,
            min_txid,
            max_txid,
            timestamp,
            wal_offset,
            wal_size,
            wal_salts,
            node_id,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_encoded_file_decodes_to_itself(
        header in any_header(),
        pages in prop::collection::btree_map(1..=u32::MAX, any::<u64>(), 0..8),
    ) {
        let lock_page = lock_page(header.page_size);
        let fits = |(page, _): &(u32, u64)| *page <= header.commit && *page != lock_page;
        let file = file(header, pages.into_iter().filter(fits));
        let bytes = file.encode();
        prop_assert_eq!(&File::decode(bytes.as_slice()).unwrap(), &file);
        prop_assert_eq!(&File::decode(Slow(&bytes)).unwrap(), &file);
    }

    #[test]
    fn merged_files_have_the_effect_of_all(
        begins in prop::collection::vec(any::<u64>(), 1..12),
        steps in prop::collection::vec((1..12u32, prop::collection::btree_map(1..12u32, any::<u64>(), 0..6)), 1..8),
        with_snapshot in any::<bool>(),
    ) {
        let pages = (1..).zip(begins.iter().copied());
        let snapshot = file(header(512, begins.len() as u32, (1, 1)), pages);
        let mut files = vec![snapshot.clone()];
        for (step, (commit, pages)) in steps.into_iter().enumerate() {
            let before = files.last().unwrap().header.commit;
            // A snapshot has all pages, so the ones that come with growth must be there.
            let grown = (before + 1..=commit).filter(|_| with_snapshot).map(|page| (page, 7));
            let mut all: BTreeMap<_, _> = grown.collect();
            all.extend(pages.into_iter().filter(|(page, _)| *page <= commit));
            let txid = step as u64 + 2;
            files.push(file(header(512, commit, (txid, txid)), all));
        }
        let mut wanted = Vec::new();
        files.iter().for_each(|file| file.apply(&mut wanted));
        let merged = if with_snapshot { merged(&files) } else { merged(&files[1..]) }.unwrap();
        let last = files.last().unwrap().header;
        prop_assert_eq!((merged.header.max_txid, merged.header.timestamp), (last.max_txid, last.timestamp));
        let mut database = Vec::new();
        if !with_snapshot {
            snapshot.apply(&mut database);
        }
        merged.apply(&mut database);
        // A page that was cut off and came back without contents is zeros after all files. The merged file has nothing
        // for it either, so it is what the database had.
        let cut = files.iter().skip(1).map(|file| file.header.commit as usize * 512).min();
        for (at, (found, wanted)) in database.chunks(512).zip(wanted.chunks(512)).enumerate() {
            let came_back = cut.is_some_and(|cut| at * 512 >= cut) && wanted == [0; 512];
            prop_assert!(found == wanted || (came_back && !with_snapshot), "page {}", at + 1);
        }
        prop_assert_eq!(database.len(), wanted.len());
    }
}

fn merged(files: &[File]) -> Result<File, LtxError> {
    let files: Vec<_> = files.iter().map(File::encode).collect();
    let decoders = files
        .iter()
        .map(|bytes| Decoder::new(bytes.as_slice()).unwrap())
        .collect();
    let (bytes, length) = merge(decoders, Vec::new())?;
    assert_eq!(bytes.len() as u64, length);
    File::decode(bytes.as_slice())
}

#[test]
fn every_page_size_decodes_to_itself() {
    for page_size in (9..=16).map(|power| 1 << power) {
        let snapshot = file(header(page_size, 4, (1, 1)), [(1, 2), (2, 0), (3, 1), (4, 5)]);
        assert_eq!(
            File::decode(snapshot.encode().as_slice()).unwrap(),
            snapshot,
            "{page_size}"
        );
    }
}

#[test]
fn pages_around_the_lock_page_are_kept() {
    for page_size in [512, 65536] {
        let lock_page = lock_page(page_size);
        assert_eq!(u64::from(lock_page - 1) * u64::from(page_size), 1 << 30);
        let header = header(page_size, lock_page + 5, (2, 3));
        let file = file(header, [(1, 1), (lock_page - 1, 1), (lock_page + 1, 4)]);
        assert_eq!(File::decode(file.encode().as_slice()).unwrap(), file);
    }
}

#[test]
fn merged_page_is_that_of_the_latest_file() {
    let files = [
        file(header(512, 3, (1, 1)), [(1, 1), (2, 4), (3, 7)]),
        file(header(512, 3, (2, 3)), [(2, 10)]),
        // It overlaps, as a file of a higher level may.
        file(header(512, 2, (2, 9)), [(2, 13)]),
    ];
    let merged = merged(&files).unwrap();
    assert_eq!(merged.header, header(512, 2, (1, 9)));
    assert_eq!(merged.pages, [(1, contents(512, 1)), (2, contents(512, 13))]);
}

#[test]
fn page_that_was_cut_off_is_not_merged() {
    let files = [
        file(header(512, 3, (2, 2)), [(3, 1)]),
        file(header(512, 2, (3, 3)), [(1, 1)]),
        file(header(512, 4, (4, 4)), [(4, 1)]),
    ];
    let merged = merged(&files).unwrap();
    let numbers: Vec<_> = merged.pages.iter().map(|(page, _)| *page).collect();
    assert_eq!(numbers, [1, 4]);
}

#[test]
fn files_that_do_not_follow_are_not_merged() {
    let one = |page_size, txids| file(header(page_size, 1, txids), [(1, 1)]);
    let gap = merged(&[one(512, (2, 3)), one(512, (5, 5))]).unwrap_err();
    assert_eq!(gap.to_string(), "transactions (5, 5) do not go on from (2, 3)");
    let backwards = merged(&[one(512, (2, 3)), one(512, (2, 3))]).unwrap_err();
    assert_eq!(backwards.to_string(), "transactions (2, 3) do not go on from (2, 3)");
    let sizes = merged(&[one(512, (2, 3)), one(1024, (4, 4))]).unwrap_err();
    assert_eq!(sizes.to_string(), "pages of 1024 bytes follow pages of 512 bytes");
    assert!(matches!(merged(&[]).unwrap_err(), LtxError::NoFiles));
}

#[test]
fn damaged_input_does_not_become_a_merged_file() {
    let first = file(header(512, 2, (2, 2)), [(1, 2), (2, 2)]).encode();
    let mut second = file(header(512, 2, (3, 3)), [(2, 5)]).encode();
    let end = second.len();
    second[end - 20] ^= 1;
    let decoders = vec![
        Decoder::new(first.as_slice()).unwrap(),
        Decoder::new(second.as_slice()).unwrap(),
    ];
    let mut to = Vec::new();
    assert!(merge(decoders, &mut to).is_err());
    assert!(File::decode(to.as_slice()).is_err(), "it has no trailer");
}

#[test]
fn encoder_refuses_what_no_file_may_have() {
    let page = |commit, txids, pages: &[u32]| {
        let mut encoder = Encoder::new(Vec::new(), header(512, commit, txids)).unwrap();
        let contents = [0; 512];
        let written = pages.iter().try_for_each(|page| encoder.page(*page, &contents));
        written
            .and_then(|()| encoder.finish().map(drop))
            .unwrap_err()
            .to_string()
    };
    let lock_page = lock_page(512);
    assert_eq!(page(2, (2, 2), &[3]), "page 3: the database has 2 pages");
    assert_eq!(page(2, (2, 2), &[2, 1]), "page 1: it follows page 2");
    assert_eq!(page(2, (2, 2), &[2, 2]), "page 2: it follows page 2");
    assert_eq!(page(2, (2, 2), &[0]), "page 0: pages are counted from 1");
    assert_eq!(
        page(lock_page + 1, (2, 2), &[lock_page]),
        format!("page {lock_page}: the lock page is in no file")
    );
    let skipped = "page 3: it follows page 1, and a snapshot leaves no page out";
    assert_eq!(page(3, (1, 4), &[1, 3]), skipped);
    assert_eq!(page(3, (1, 4), &[1, 2]), "the snapshot has pages up to 2 of 3");
    assert_eq!(page(3, (1, 4), &[]), "the snapshot has pages up to 0 of 3");
    let mut encoder = Encoder::new(Vec::new(), header(512, 1, (2, 2))).unwrap();
    let size = encoder.page(1, &[0; 1024]).unwrap_err();
    assert!(matches!(
        size,
        LtxError::Page {
            page: 1,
            problem: PageProblem::Size(1024)
        }
    ));
}

#[test]
fn header_fields_outside_their_range_are_named() {
    let good = header(512, 1, (2, 2));
    let wrong = [
        (Header { page_size: 256, ..good }, "the header's page size is 256"),
        (
            Header {
                page_size: 131_072,
                ..good
            },
            "the header's page size is 131072",
        ),
        (
            Header {
                page_size: 1000,
                ..good
            },
            "the header's page size is 1000",
        ),
        (Header { page_size: 0, ..good }, "the header's page size is 0"),
        (Header { commit: 0, ..good }, "the header's commit is 0"),
        (Header { min_txid: 0, ..good }, "the header's min TXID is 0"),
        (Header { max_txid: 1, ..good }, "the header's max TXID is 1"),
        (Header { wal_size: 1, ..good }, "the header's WAL offset is 0"),
        (
            Header {
                wal_salts: [0, 1],
                ..good
            },
            "the header's WAL offset is 0",
        ),
        (
            Header {
                wal_offset: 1 << 63,
                ..good
            },
            "the header's WAL offset is 9223372036854775808",
        ),
    ];
    for (header, wanted) in wrong {
        let error = Encoder::new(Vec::new(), header).err().unwrap().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}
