//! The names of calls: labels of a handle, and the caller's line through wrappers.

#[cfg(feature = "async")]
use std::future::Future;

#[cfg(feature = "async")]
use larder::Result;
use larder::{ReadOptions, Store, WriteOptions};

fn sites(store: &Store) -> Vec<String> {
    let mut sites: Vec<_> = store
        .stats()
        .call_sites
        .into_iter()
        .map(|call| call.site.to_string())
        .collect();
    sites.sort();
    sites
}

#[test]
fn calls_of_a_labelled_handle_have_its_name() {
    let store = Store::open_temp().unwrap();
    let links = store.labelled("links");
    links
        .write(|tx| tx.execute_batch("CREATE TABLE links(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    links
        .submit(|tx| tx.execute("INSERT INTO links DEFAULT VALUES", []))
        .unwrap()
        .wait()
        .unwrap();
    links
        .transact(|tx| tx.execute("INSERT INTO links DEFAULT VALUES", []).map(drop))
        .unwrap();
    let count = |tx: &larder::ReadTx<'_>| tx.scalar::<i64>("SELECT count(*) FROM links", []);
    assert_eq!(links.read(count).unwrap(), 2);
    assert_eq!(links.query(count).unwrap(), 2);
    assert_eq!(links.clone().read(count).unwrap(), 2, "a clone has the label, too");
    assert_eq!(sites(&store), ["links", "links"], "one of reads, one of writes");
    let error = links.read(|tx| tx.scalar::<i64>("SELECT wrong", [])).unwrap_err();
    assert!(error.to_string().contains("at links"), "{error}");
}

#[test]
fn label_of_a_call_takes_precedence() {
    let store = Store::open_temp().unwrap();
    let links = store.labelled(String::from("links"));
    let options = ReadOptions::new().label("one");
    links.read_with(options, |tx| tx.scalar::<i64>("SELECT 1", [])).unwrap();
    links.write_with(WriteOptions::new().label("two"), |_| Ok(())).unwrap();
    links.labelled("three").write(|_| Ok(())).unwrap();
    assert_eq!(sites(&store), ["one", "three", "two"]);
    // The handle that it was made of is as it was.
    store.write(|_| Ok(())).unwrap();
    assert!(
        sites(&store).iter().any(|site| site.contains("labels.rs")),
        "{:?}",
        sites(&store)
    );
}

#[cfg(feature = "async")]
#[test]
fn futures_of_a_labelled_handle_have_its_name() {
    let store = Store::open_temp().unwrap();
    let links = store.labelled("links");
    futures_executor::block_on(async {
        links.write_async(|_| Ok(())).await.unwrap();
        links.transact_async(|_| Ok::<_, larder::Error>(())).await.unwrap();
        links.read_async(|tx| tx.scalar::<i64>("SELECT 1", [])).await.unwrap();
        links.query_async(|tx| tx.scalar::<i64>("SELECT 1", [])).await.unwrap();
    });
    assert_eq!(sites(&store), ["links", "links"]);
}

/// The guide's wrapper: no `async fn`, so that the line is that of the caller.
#[cfg(feature = "async")]
#[track_caller]
fn wrapper(store: &Store) -> impl Future<Output = Result<i64>> + Send + use<> {
    store.read_async(|tx| tx.scalar("SELECT 1", []))
}

#[cfg(feature = "async")]
#[test]
fn wrapper_keeps_the_line_of_its_caller() {
    let store = Store::open_temp().unwrap();
    let line = line!() + 1;
    futures_executor::block_on(wrapper(&store)).unwrap();
    assert_eq!(sites(&store), [format!("{}:{line}", file!())]);
}
