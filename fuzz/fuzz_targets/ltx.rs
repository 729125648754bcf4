#![no_main]
//! The files of a replica: encoded, damaged, decoded, merged.
//!
//! - What is encoded, decodes to the same.
//! - A flipped bit is an error, or changes nothing. (A longer damage may, in theory, come with its checksum.)
//! - Whatever decodes, encodes and decodes to the same again: so it obeys the rules of the format.
//! - Files merge to one with the effect of all, or are refused because they do not follow one another.
//! - Decoding needs no more memory than a page, whatever a file says of its lengths: the fuzzer has a limit.
//!
//! The files are of one page size and few pages; or Litestream's own, of both kinds of pages; or any bytes behind a
//! sound header.

use arbitrary::{Arbitrary, Unstructured};
use larder::replica::ltx::{Decoder, Encoder, Header, LtxError, merge};
use larder_fuzz::damage::Damage;
use libfuzzer_sys::fuzz_target;

const PAGE: usize = 512;

/// Files of Litestream: two with frames, two with blocks.
const GOLDEN: [&[u8]; 4] = [
    include_bytes!("../../tests/it/replica/golden/0.5.14/0000000000000002-0000000000000002.ltx"),
    include_bytes!("../../tests/it/replica/golden/0.5.14/0000000000000004-0000000000000004.ltx"),
    include_bytes!("../../tests/it/replica/golden/0.5.17/0000000000000002-0000000000000002.ltx"),
    include_bytes!("../../tests/it/replica/golden/0.5.17/0000000000000004-0000000000000004.ltx"),
];

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Files, one after another.
    Series(Vec<Transaction>),
    /// A file of the series, damaged.
    Damaged(Transaction, Vec<Damage<'a>>),
    Golden(u8, Vec<Damage<'a>>),
    /// What follows the header of a file.
    Behind(Transaction, &'a [u8]),
    Any(&'a [u8]),
}

#[derive(Debug)]
struct Transaction {
    commit: u8,
    /// Numbers of pages, and a byte of which their contents are made.
    pages: Vec<(u8, u8)>,
}

impl<'a> Arbitrary<'a> for Transaction {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let commit = u.int_in_range(1..=20)?;
        let mut pages: Vec<(u8, u8)> = u.arbitrary()?;
        pages.retain(|(page, _)| (1..=commit).contains(page));
        pages.sort_unstable();
        pages.dedup_by_key(|(page, _)| *page);
        Ok(Self { commit, pages })
    }
}

#[derive(Clone, Debug, PartialEq)]
struct File {
    header: Header,
    pages: Vec<(u32, Vec<u8>)>,
}

impl File {
    fn new(transaction: &Transaction, txid: u64) -> Self {
        let contents = |byte: u8| -> Vec<u8> {
            let noise = |n: usize| (n * n % 251) as u8;
            (0..PAGE)
                .map(|n| if byte & 1 == 0 { byte } else { byte ^ noise(n) })
                .collect()
        };
        let pages = transaction.pages.iter();
        Self {
            header: Header {
                page_size: PAGE as u32,
                commit: transaction.commit.into(),
                min_txid: txid,
                max_txid: txid,
                timestamp: 0,
                wal_offset: 32,
                wal_size: 0,
                wal_salts: [1, 2],
                node_id: 3,
            },
            pages: pages.map(|&(page, byte)| (page.into(), contents(byte))).collect(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), self.header).expect("a sound header");
        for (page, contents) in &self.pages {
            encoder.page(*page, contents).expect("a page of the database");
        }
        encoder.finish().expect("all pages").0
    }

    fn decode(bytes: &[u8]) -> Result<Self, LtxError> {
        let mut decoder = Decoder::new(bytes)?;
        let header = *decoder.header();
        let mut contents = vec![0; header.page_size as usize];
        let mut pages = Vec::new();
        while let Some(page) = decoder.next_page(&mut contents)? {
            pages.push((page, contents.clone()));
        }
        Ok(Self { header, pages })
    }

    fn apply(&self, database: &mut Vec<Vec<u8>>) {
        let commit = self.header.commit as usize;
        database.resize(database.len().max(commit), vec![0; PAGE]);
        for (page, contents) in &self.pages {
            database[*page as usize - 1].clone_from(contents);
        }
        database.truncate(commit);
    }
}

/// Decodes what may be no file.
fn look(bytes: &[u8]) -> Option<File> {
    match File::decode(bytes) {
        Ok(file) => {
            assert_eq!(File::decode(&file.encode()).expect("it was encoded"), file);
            Some(file)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

fn damaged(sound: &[u8], damage: &[Damage<'_>]) {
    let mut bytes = sound.to_vec();
    damage.iter().for_each(|damage| damage.apply(&mut bytes, 64));
    let found = look(&bytes);
    if let ([Damage::Bit { .. }], Some(found)) = (damage, found) {
        assert_eq!(found, File::decode(sound).expect("it is sound"), "a flipped bit");
    }
}

fn merged(transactions: &[Transaction]) {
    let files: Vec<_> = (2..)
        .zip(transactions)
        .map(|(txid, one)| File::new(one, txid))
        .collect();
    let encoded: Vec<_> = files.iter().map(File::encode).collect();
    for (file, bytes) in files.iter().zip(&encoded) {
        assert_eq!(&File::decode(bytes).expect("it was encoded"), file);
    }
    let decoders: Vec<_> = encoded
        .iter()
        .map(|bytes| Decoder::new(bytes.as_slice()).expect("it was encoded"))
        .collect();
    let Ok((bytes, _)) = merge(decoders, Vec::new()) else {
        return assert!(files.is_empty(), "they follow one another");
    };
    let merged = File::decode(&bytes).expect("it was encoded");
    let (mut one_by_one, mut at_once) = (Vec::new(), Vec::new());
    files.iter().for_each(|file| file.apply(&mut one_by_one));
    merged.apply(&mut at_once);
    assert!(one_by_one == at_once, "the effect of all");
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Series(transactions) => merged(&transactions),
        Input::Damaged(transaction, damage) => damaged(&File::new(&transaction, 2).encode(), &damage),
        Input::Golden(n, damage) => damaged(GOLDEN[usize::from(n) % GOLDEN.len()], &damage),
        Input::Behind(transaction, bytes) => {
            let mut file = File::new(&transaction, 2).encode();
            file.truncate(100);
            file.extend_from_slice(bytes);
            look(&file);
        }
        Input::Any(bytes) => drop(look(bytes)),
    }
});
