//! Backups in an S3-compatible storage: one of the test's own, on loopback.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Lab, about, noise, picture};
use sampan_backup::{Access, BackupError, Repository, S3Keys, Wanted, Watch};

/// The objects of one bucket, and how it misbehaves.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Vec<u8>>,
    requests: usize,
    /// Every so many requests one is answered with 503.
    failing: Option<usize>,
    /// Nothing is answered any more.
    down: bool,
    sent: usize,
}

/// Keys a page of a list holds.
const PAGE: usize = 7;

struct Storage {
    address: SocketAddr,
    bucket: Arc<Mutex<Bucket>>,
}

impl Storage {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bucket = Arc::new(Mutex::new(Bucket::default()));
        let shared = Arc::clone(&bucket);
        // Ends with the process of the test.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { address, bucket }
    }

    fn repository(&self, lab: &Lab, secret_key: &str) -> Repository {
        let access = Access {
            location: format!("s3:http://{}/bucket/some/where", self.address).parse().unwrap(),
            keys: Some(S3Keys {
                access_key_id: "AK".to_owned(),
                secret_access_key: secret_key.to_owned(),
                session_token: None,
                region: None,
            }),
            ..lab.access()
        };
        Repository::new(access, lab.runtime.handle()).unwrap()
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Bucket) -> T) -> T {
        use_it(&mut self.bucket.lock().unwrap())
    }
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter_map(|p| p.split_once('='));
    let query = pairs.map(|(k, v)| (decode(k), decode(v))).collect();
    Some(Request { method, path: decode(path), query, headers, body })
}

fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = u8::from_str_radix(&part[..2], 16).unwrap();
        out.push(char::from(byte));
        out.push_str(&part[2..]);
    }
    out
}

fn serve(stream: &TcpStream, bucket: &Mutex<Bucket>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(request) = read_request(&mut reader) {
        let Some((status, headers, body)) = answer(&request, &mut bucket.lock().unwrap()) else {
            return;
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n");
        let body = if request.method == "HEAD" { &[][..] } else { &body };
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body)).is_err() {
            return;
        }
    }
}

fn answer(request: &Request, bucket: &mut Bucket) -> Option<(u16, String, Vec<u8>)> {
    bucket.requests += 1;
    if bucket.down {
        return None;
    }
    let error = |status, code: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        Some((status, String::new(), text.into_bytes()))
    };
    if bucket.failing.is_some_and(|n| bucket.requests.is_multiple_of(n)) {
        return error(503, "SlowDown");
    }
    let signed = request.headers.get("authorization").map(String::as_str).unwrap_or_default();
    if !signed.starts_with("AWS4-HMAC-SHA256 Credential=AK/") || !signed.contains("Signature=") {
        return error(403, "AccessDenied");
    }
    let key = request.path.strip_prefix("/bucket")?.trim_start_matches('/').to_owned();
    match request.method.as_str() {
        "PUT" => {
            bucket.sent += request.body.len();
            bucket.objects.insert(key, request.body.clone());
            Some((200, "etag: \"x\"\r\n".to_owned(), Vec::new()))
        }
        "DELETE" => {
            bucket.objects.remove(&key);
            Some((204, String::new(), Vec::new()))
        }
        "GET" if key.is_empty() => Some((200, String::new(), list(request, bucket).into_bytes())),
        "GET" | "HEAD" => {
            let Some(object) = bucket.objects.get(&key) else { return error(404, "NoSuchKey") };
            let head = "etag: \"x\"\r\nlast-modified: Sat, 21 Nov 2026 10:00:00 GMT\r\n";
            let Some(range) = request.headers.get("range") else {
                return Some((200, head.to_owned(), object.clone()));
            };
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            let from: usize = from.parse().ok()?;
            if from >= object.len() {
                return error(416, "InvalidRange");
            }
            let to = to.parse().map_or(object.len(), |to: usize| (to + 1).min(object.len()));
            let head = format!("{head}content-range: bytes {from}-{}/{}\r\n", to - 1, object.len());
            Some((206, head, object[from..to].to_vec()))
        }
        _ => error(405, "MethodNotAllowed"),
    }
}

fn list(request: &Request, bucket: &Bucket) -> String {
    let text = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let (prefix, after) = (text("prefix"), text("continuation-token"));
    let mut keys = bucket.objects.iter().filter(|(k, _)| k.starts_with(&prefix) && **k > after);
    let page: Vec<_> = keys.by_ref().take(PAGE).collect();
    let more = keys.next().is_some();
    let contents: String = page
        .iter()
        .map(|(key, object)| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified>\
                 <ETag>x</ETag><Size>{}</Size></Contents>",
                object.len()
            )
        })
        .collect();
    let next = page.last().filter(|_| more).map_or_else(String::new, |(key, _)| {
        format!("<NextContinuationToken>{key}</NextContinuationToken>")
    });
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><Name>bucket</Name><Prefix>{prefix}</Prefix>\
         <KeyCount>{}</KeyCount><MaxKeys>{PAGE}</MaxKeys><IsTruncated>{more}</IsTruncated>{next}\
         {contents}</ListBucketResult>",
        page.len()
    )
}

#[test]
fn backups_in_s3_are_restored_and_given_up() {
    let lab = Lab::new();
    let storage = Storage::start();
    storage.with(|b| b.failing = Some(17));
    let repository = storage.repository(&lab, "SK");
    let nobody = Watch::nobody();
    for n in 0..9u64 {
        fs::write(lab.source().join(format!("f{n}")), noise(n + 1, 300_000)).unwrap();
        repository.backup(&lab.source(), &about(), &nobody).unwrap();
    }
    let sent = storage.with(|b| std::mem::take(&mut b.sent));
    assert!(sent < 4 << 20, "{sent}");
    assert!(storage.with(|b| b.objects.keys().all(|k| k.starts_with("some/where/"))));
    let again = repository.backup(&lab.source(), &about(), &nobody).unwrap();
    assert_eq!(again.changed, 0);
    assert!(storage.with(|b| b.sent) < 10_000);
    let target = lab.target("target");
    let done = repository.restore(&Wanted::Latest(None), &target, &nobody).unwrap();
    assert_eq!(done.damaged, vec![]);
    assert_eq!(picture(&lab.source()), picture(&target));
    let gone = repository.forget("data", "alpha", &"3".parse().unwrap(), &nobody).unwrap();
    assert_eq!((gone.gone.len(), gone.kept), (7, 3));
    assert_eq!(repository.check(&nobody).unwrap().errors, Vec::<String>::new());
    // Nothing secret lies in the bucket, and no name of a file.
    let plain = [b"correct horse".as_slice(), b"f7", b"alpha"];
    storage.with(|b| {
        for (key, object) in &b.objects {
            let found =
                plain.iter().any(|p| p.len() > 4 && object.windows(p.len()).any(|w| w == *p));
            assert!(!found, "{key}");
        }
    });
}

#[test]
fn damage_in_s3_is_named_and_an_unreachable_storage_is_told() {
    let lab = Lab::new();
    let storage = Storage::start();
    let repository = storage.repository(&lab, "SK");
    let nobody = Watch::nobody();
    fs::write(lab.source().join("first"), noise(1, 300_000)).unwrap();
    repository.backup(&lab.source(), &about(), &nobody).unwrap();
    let largest = |b: &mut Bucket| {
        let packs = b.objects.iter().filter(|(k, _)| k.contains("/data/"));
        packs.max_by_key(|(_, o)| o.len()).unwrap().0.clone()
    };
    let broken = storage.with(|b| {
        let key = largest(b);
        b.objects.get_mut(&key).unwrap()[1000] ^= 1;
        key
    });
    fs::write(lab.source().join("second"), noise(2, 1000)).unwrap();
    repository.backup(&lab.source(), &about(), &nobody).unwrap();
    let target = lab.target("target");
    let done = repository.restore(&Wanted::Latest(None), &target, &nobody).unwrap();
    let pack = done.damaged[0].pack.clone().unwrap();
    assert!(broken.ends_with(&pack), "{broken} {pack}");
    assert_eq!(fs::read(target.join("second")).unwrap(), noise(2, 1000));

    storage.with(|b| b.down = true);
    let error = repository.list(None).unwrap_err();
    assert!(matches!(error, BackupError::Storage { .. }), "{error}");
    assert!(!error.to_string().contains("SK"), "{error}");
}

#[test]
fn wrong_and_missing_keys_are_told() {
    let lab = Lab::new();
    let storage = Storage::start();
    let access = Access {
        location: format!("s3:http://{}/bucket", storage.address).parse().unwrap(),
        ..lab.access()
    };
    let error = Repository::new(access.clone(), lab.runtime.handle()).err().unwrap();
    assert!(error.to_string().contains("keys"), "{error}");
    let keys = S3Keys {
        access_key_id: "OTHER".to_owned(),
        secret_access_key: "NEVERSHOWN".to_owned(),
        ..S3Keys::default()
    };
    let access = Access { keys: Some(keys), ..access };
    let repository = Repository::new(access, lab.runtime.handle()).unwrap();
    fs::write(lab.source().join("f"), "x").unwrap();
    let error = repository.backup(&lab.source(), &about(), &Watch::nobody()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("PermissionDenied") && !text.contains("NEVERSHOWN"), "{text}");
}
