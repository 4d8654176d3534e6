//! Logs written by the writers and read back.

use std::io::Write;

use super::*;
use crate::logs::writer;
use crate::logs::{LogSink, Record};

fn json(dir: &Path, max_size: u64, max_file: u32, compress: bool) -> LogSetup {
    let path = dir.join("x-json.log");
    LogSetup::JsonFile { path, max_size, max_file, compress, attrs: BTreeMap::new() }
}

fn local(dir: &Path, max_size: u64, max_file: u32, compress: bool) -> LogSetup {
    let path = dir.join("local-logs/container.log");
    let attrs = [("k".to_owned(), "v".to_owned())].into();
    LogSetup::Local { path, max_size, max_file, compress, attrs }
}

type Make = fn(&Path, u64, u32, bool) -> LogSetup;
const BOTH: [Make; 2] = [json, local];

fn query(setup: &LogSetup) -> LogQuery {
    LogQuery {
        setup: setup.clone(),
        follow: false,
        tail: None,
        since: None,
        until: None,
        stdout: true,
        stderr: true,
        stopped: None,
    }
}

/// Record `n` has the time `n` seconds; every third is standard error.
fn put(sink: &mut dyn LogSink, n: usize) {
    let stream = if n.is_multiple_of(3) { StdStream::Stderr } else { StdStream::Stdout };
    let time = Timestamp::from_nanos(i64::try_from(n).unwrap() * 1_000_000_000);
    let line = format!("line {n}");
    sink.write(&Record { stream, time, line: line.as_bytes(), partial: false }).unwrap();
}

fn fill(setup: &LogSetup, records: std::ops::Range<usize>) {
    let mut sink = writer::open(setup).unwrap();
    records.for_each(|n| put(sink.as_mut(), n));
    sink.flush().unwrap();
}

async fn numbers(query: LogQuery) -> Vec<usize> {
    read(query).map(|item| number(&item.unwrap())).collect().await
}

fn number(entry: &LogEntry) -> usize {
    let text = std::str::from_utf8(&entry.line).unwrap();
    text.strip_prefix("line ").unwrap().trim_end().parse().unwrap()
}

fn seconds(n: i64) -> Option<Timestamp> {
    Some(Timestamp::from_nanos(n * 1_000_000_000))
}

#[tokio::test]
async fn everything_is_read_across_rotated_files() {
    for make in BOTH {
        for compress in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let setup = make(dir.path(), 2000, 100, compress);
            fill(&setup, 1..300);
            assert_eq!(numbers(query(&setup)).await, (1..300).collect::<Vec<_>>());
            for tail in [0, 1, 5, 50, 299, 1000] {
                let got = numbers(LogQuery { tail: Some(tail), ..query(&setup) }).await;
                let first = 300usize.saturating_sub(tail).max(1);
                assert_eq!(got, (first..300).collect::<Vec<_>>(), "{tail}");
            }
        }
    }
}

#[tokio::test]
async fn times_and_streams_choose() {
    for make in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let setup = make(dir.path(), 1500, 100, true);
        fill(&setup, 1..100);
        let between = LogQuery { since: seconds(20), until: seconds(30), ..query(&setup) };
        assert_eq!(numbers(between.clone()).await, (20..31).collect::<Vec<_>>());
        let tail = LogQuery { tail: Some(3), ..between };
        assert_eq!(numbers(tail.clone()).await, [28, 29, 30]);
        let stderr = LogQuery { stdout: false, ..tail };
        assert_eq!(numbers(stderr).await, [24, 27, 30]);
    }
}

#[tokio::test]
async fn attributes_come_back() {
    for (make, expected) in BOTH.into_iter().zip([0, 1]) {
        let dir = tempfile::tempdir().unwrap();
        let setup = make(dir.path(), 0, 1, false);
        fill(&setup, 1..3);
        for tail in [None, Some(1)] {
            let entries: Vec<_> = read(LogQuery { tail, ..query(&setup) }).collect().await;
            let last = entries.into_iter().next_back().unwrap().unwrap();
            assert_eq!(last.attrs.len(), expected);
        }
    }
}

#[tokio::test]
async fn a_torn_end_is_passed_over() {
    for make in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let setup = make(dir.path(), 0, 1, false);
        fill(&setup, 1..10);
        let path = match &setup {
            LogSetup::JsonFile { path, .. } | LogSetup::Local { path, .. } => path.clone(),
            _ => unreachable!(),
        };
        let torn = &std::fs::read(&path).unwrap()[30..45].to_vec();
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(torn).unwrap();
        assert_eq!(numbers(query(&setup)).await, (1..10).collect::<Vec<_>>());
        let tail = LogQuery { tail: Some(2), ..query(&setup) };
        assert_eq!(numbers(tail).await, [8, 9]);
        // The next start of the container goes on behind it.
        fill(&setup, 10..12);
        assert_eq!(numbers(query(&setup)).await, (1..12).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn following_sees_every_record_across_rotations_and_ends() {
    for make in BOTH {
        for (tail, first) in [(None, 1), (Some(2), 9), (Some(0), 11)] {
            let dir = tempfile::tempdir().unwrap();
            let setup = make(dir.path(), 1500, 50, true);
            fill(&setup, 1..11);
            let (stop, stopped) = watch::channel(false);
            let follow = LogQuery { follow: true, tail, stopped: Some(stopped), ..query(&setup) };
            let mut stream = read(follow);
            let mut got = Vec::new();
            // Until the history is through: writing begins with the reader at
            // the end of the file.
            while got.len() < 11 - first {
                got.push(number(&stream.next().await.unwrap().unwrap()));
            }
            if tail == Some(0) {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let writer = std::thread::spawn(move || {
                let mut sink = writer::open(&setup).unwrap();
                for n in 11..400 {
                    put(sink.as_mut(), n);
                    sink.flush().unwrap();
                }
                drop(sink);
                stop.send(true).unwrap();
                // The sender lives on: the end is that it says so.
                stop
            });
            while let Some(item) = stream.next().await {
                got.push(number(&item.unwrap()));
            }
            writer.join().unwrap();
            assert_eq!(got, (first..400).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn following_waits_for_a_log_that_is_not_there_yet() {
    for make in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let setup = make(dir.path(), 0, 1, false);
        let (stop, stopped) = watch::channel(false);
        let mut stream = read(LogQuery { follow: true, stopped: Some(stopped), ..query(&setup) });
        let next = tokio::spawn(async move { (stream.next().await, stream) });
        fill(&setup, 1..2);
        let (entry, mut stream) = next.await.unwrap();
        assert_eq!(number(&entry.unwrap().unwrap()), 1);
        drop(stop);
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn an_end_in_time_ends_following() {
    let dir = tempfile::tempdir().unwrap();
    let setup = json(dir.path(), 0, 1, false);
    fill(&setup, 1..5);
    let soon = Timestamp::from_nanos(Timestamp::now().nanos() + 50_000_000);
    let follow = LogQuery { follow: true, until: Some(soon), ..query(&setup) };
    assert_eq!(numbers(follow).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn an_emptied_file_is_read_from_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let setup = json(dir.path(), 300, 1, false);
    let (stop, stopped) = watch::channel(false);
    fill(&setup, 1..4);
    let mut stream = read(LogQuery { follow: true, stopped: Some(stopped), ..query(&setup) });
    for n in 1..4 {
        assert_eq!(number(&stream.next().await.unwrap().unwrap()), n);
    }
    // Larger than the limit together: the file is emptied.
    fill(&setup, 4..7);
    let mut got = Vec::new();
    while got.last() != Some(&6) {
        got.push(number(&stream.next().await.unwrap().unwrap()));
    }
    drop(stop);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn drivers_that_keep_nothing_say_so() {
    let first = read(query(&LogSetup::None)).next().await;
    let error = first.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "configured logging driver does not support reading");
}
