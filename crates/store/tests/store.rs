//! The store as its users see it: durability, conditions, watches, damage.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use sampan_store::{Op, RedbStore, Store, StoreError, Transaction, WatchError};

fn open(path: &Path) -> RedbStore {
    let opened = RedbStore::open(path).unwrap();
    assert_eq!(opened.set_aside, None);
    opened.store
}

#[tokio::test]
async fn commits_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    let first = store.commit(Transaction::put("a/1", b"x".to_vec())).await.unwrap();
    store.commit(Transaction::put("a/2", b"y".to_vec())).await.unwrap();
    store.commit(Transaction::put("b/1", b"z".to_vec())).await.unwrap();
    store.commit(Transaction::delete("a/2")).await.unwrap();
    drop(store);
    let store = open(&path);
    let listing = store.list("a/").await.unwrap();
    assert_eq!(listing.revision, first + 3);
    let keys: Vec<_> = listing.entries.iter().map(|(k, v)| (k.as_str(), v.revision)).collect();
    assert_eq!(keys, [("a/1", first)]);
}

#[tokio::test]
async fn a_failed_condition_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"));
    let new = Transaction::put("k", b"1".to_vec()).when("k", None);
    let revision = store.commit(new.clone()).await.unwrap();
    assert!(matches!(store.commit(new).await, Err(StoreError::Conflict { .. })));
    let both = Transaction::put("k", b"2".to_vec())
        .when("k", Some(revision + 7))
        .and(Op::Put { key: "other".to_owned(), value: vec![] });
    assert!(store.commit(both).await.is_err());
    assert_eq!(store.get("k").await.unwrap().unwrap().value, b"1");
    assert_eq!(store.get("other").await.unwrap(), None);
    store.commit(Transaction::put("k", b"3".to_vec()).when("k", Some(revision))).await.unwrap();
}

#[tokio::test]
async fn a_watch_sees_every_change_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"));
    let from = store.list("").await.unwrap().revision;
    let writers = (0..50).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            store.commit(Transaction::put(format!("w/{i}"), vec![i])).await.unwrap()
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut watch = store.watch("w/", from);
    let mut seen = Vec::new();
    while seen.len() < 50 {
        seen.push(watch.next().await.unwrap().revision);
    }
    assert!(seen.windows(2).all(|w| w[0] < w[1]));
    for writer in writers {
        assert!(seen.contains(&writer.await.unwrap()));
    }
    let mut late = store.watch("", 0);
    drop(store);
    // A store that begins empty remembers from revision 0 on.
    assert!(late.next().await.is_ok());
    let closed = async {
        loop {
            if let Err(e) = watch.next().await {
                break e;
            }
        }
    };
    assert_eq!(closed.await, WatchError::Closed);
}

#[tokio::test]
async fn a_store_in_use_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = open(&path);
    assert!(matches!(RedbStore::open(&path), Err(StoreError::InUse { .. })));
}

#[test]
fn a_damaged_file_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    for (name, damage) in [("garbage", 0usize), ("torn", 4096), ("header", 1)] {
        let path = dir.path().join(name);
        if damage == 0 {
            std::fs::write(&path, b"this is no database").unwrap();
        } else {
            drop(open(&path));
            let mut bytes = std::fs::read(&path).unwrap();
            if damage == 1 {
                bytes[..4096].fill(0xa5);
            } else {
                bytes.truncate(damage);
            }
            std::fs::write(&path, bytes).unwrap();
        }
        let opened = RedbStore::open(&path).unwrap();
        let (aside, reason) = opened.set_aside.expect(name);
        assert!(aside.exists() && !reason.is_empty(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn behaves_as_a_map(ops in prop::collection::vec((0u8..8, prop::option::of(any::<u8>())), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut model = BTreeMap::new();
        let store = open(&path);
        for (key, value) in ops {
            let key = format!("k{key}");
            let transaction = match value {
                Some(v) => { model.insert(key.clone(), vec![v]); Transaction::put(key, vec![v]) }
                None => { model.remove(&key); Transaction::delete(key) }
            };
            runtime.block_on(store.commit(transaction)).unwrap();
        }
        drop(store);
        let listing = runtime.block_on(open(&path).list("")).unwrap();
        let found: BTreeMap<_, _> = listing.entries.into_iter().map(|(k, v)| (k, v.value)).collect();
        prop_assert_eq!(found, model);
    }
}
