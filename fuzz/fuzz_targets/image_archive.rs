//! `docker load` of any bytes: refused or loaded, never a panic, and nothing
//! is written outside the store's directory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampan_image::{Images, LoadOptions, ProgressSink};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("data");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let images = Images::open(&root).await.expect("an empty store");
        let archive = std::io::Cursor::new(bytes.to_vec());
        let _ = images.load(archive, LoadOptions::default(), ProgressSink::none()).await;
    });
    let beside = std::fs::read_dir(dir.path()).expect("the directory").count();
    assert!(beside <= 1, "something was written beside the store");
});
