//! Options of the log drivers: everything is checked here, once, at `create`.
//!
//! Be aware:
//! - `mode=non-blocking` is for receivers that can be slow. Files are written
//!   through the page cache, so for them it is refused instead of ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

use super::syslog::DEFAULT_BUFFER;
use super::{LogSetup, SyslogAddress, SyslogFormat};

/// Size of a log file when none is asked for.
const DEFAULT_SIZE: u64 = 20_000_000;
/// Files kept when no number is asked for, by driver.
const DEFAULT_FILES: u32 = 3;
const DEFAULT_LOCAL_FILES: u32 = 5;

/// Why log options are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LogOptError {
    /// No such driver.
    #[error("logger: no log driver named '{0}' is registered")]
    UnknownDriver(String),
    /// The driver has no such option.
    #[error("unknown log opt '{opt}' for {driver} log driver")]
    UnknownOption {
        /// The option.
        opt: String,
        /// The driver.
        driver: String,
    },
    /// An option's value is wrong.
    #[error("{0}")]
    Invalid(String),
}

impl Kind for LogOptError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

/// What tags and attributes are made from.
#[derive(Debug, Clone, Default)]
pub struct LogInfo<'a> {
    /// The whole id.
    pub container_id: &'a str,
    /// Without the leading slash.
    pub container_name: &'a str,
    /// The image's id.
    pub image_id: &'a str,
    /// The image as it was asked for.
    pub image_name: &'a str,
    /// The command.
    pub command: &'a str,
    /// `NAME=value` of the container.
    pub env: &'a [String],
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
}

type Options = BTreeMap<String, String>;

/// Checks driver and options without a container. An empty driver is `json-file`.
///
/// # Errors
/// [`LogOptError`] for the first thing that is wrong.
pub fn validate(driver: &str, options: &Options) -> Result<(), LogOptError> {
    setup(driver, options, &LogInfo::default(), Path::new("")).map(|_| ())
}

/// The complete setup; log files are placed in `directory`
/// (`containers/<id>`), as `<id>-json.log` or `local-logs/container.log`.
///
/// # Errors
/// [`LogOptError`] for the first thing that is wrong.
pub fn setup(
    driver: &str,
    options: &Options,
    info: &LogInfo<'_>,
    directory: &Path,
) -> Result<LogSetup, LogOptError> {
    match driver {
        "" | "json-file" => {
            let known = [FILE_OPTIONS, ATTRIBUTE_OPTIONS].concat();
            check_names("json-file", options, &known)?;
            let files = Files::parse(options, DEFAULT_FILES, false)?;
            Ok(LogSetup::JsonFile {
                path: directory.join(format!("{}-json.log", info.container_id)),
                max_size: files.size,
                max_file: files.number,
                compress: files.compress,
                attrs: attributes(options, info)?,
            })
        }
        "local" => {
            check_names("local", options, FILE_OPTIONS)?;
            let files = Files::parse(options, DEFAULT_LOCAL_FILES, true)?;
            Ok(LogSetup::Local {
                path: directory.join("local-logs/container.log"),
                max_size: files.size,
                max_file: files.number,
                compress: files.compress,
                attrs: BTreeMap::new(),
            })
        }
        "none" => check_names("none", options, &[]).map(|()| LogSetup::None),
        "syslog" => syslog(options, info),
        other => Err(LogOptError::UnknownDriver(other.to_owned())),
    }
}

const FILE_OPTIONS: &[&str] = &["max-size", "max-file", "compress"];
const ATTRIBUTE_OPTIONS: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
const SYSLOG_OPTIONS: &[&str] = &["syslog-address", "syslog-facility", "syslog-format", "tag"];

fn invalid<T>(message: impl Into<String>) -> Result<T, LogOptError> {
    Err(LogOptError::Invalid(message.into()))
}

fn check_names(driver: &str, options: &Options, known: &[&str]) -> Result<(), LogOptError> {
    let mode = mode(options)?;
    if mode == Mode::NonBlocking && driver != "syslog" && driver != "none" {
        return invalid(format!(
            "logger: mode=non-blocking is not supported by the {driver} log driver: \
             it writes files through the page cache and waits for no receiver"
        ));
    }
    for opt in options.keys() {
        if !known.contains(&opt.as_str()) && opt != "mode" && opt != "max-buffer-size" {
            return Err(LogOptError::UnknownOption { opt: opt.clone(), driver: driver.into() });
        }
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Mode {
    Blocking,
    NonBlocking,
}

fn mode(options: &Options) -> Result<Mode, LogOptError> {
    let mode = match options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") => Mode::Blocking,
        Some("non-blocking") => Mode::NonBlocking,
        Some(other) => return invalid(format!("logger: logging mode not supported: {other}")),
    };
    if mode == Mode::Blocking && options.contains_key("max-buffer-size") {
        return invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        );
    }
    Ok(mode)
}

struct Files {
    size: u64,
    number: u32,
    compress: bool,
}

impl Files {
    fn parse(options: &Options, number: u32, compress: bool) -> Result<Self, LogOptError> {
        let size = match options.get("max-size").map(String::as_str) {
            None => DEFAULT_SIZE,
            Some("-1") => 0,
            Some(text) => match parse_size(text) {
                Some(0) => return invalid("max-size must be a positive number"),
                Some(size) => size,
                None => return invalid(format!("invalid size: '{text}'")),
            },
        };
        let number = match options.get("max-file") {
            None => number,
            Some(text) => match text.parse::<u32>() {
                Ok(0) => return invalid("max-file cannot be less than 1"),
                Ok(n) if n <= 1000 => n,
                _ => return invalid(format!("invalid value for max-file: '{text}'")),
            },
        };
        let compress = match options.get("compress") {
            None => compress && number > 1 && size > 0,
            Some(text) => match parse_bool(text) {
                Some(true) if number < 2 || size == 0 => {
                    return invalid(
                        "compress cannot be true when max-file is less than 2 or max-size is not set",
                    );
                }
                Some(value) => value,
                None => return invalid(format!("invalid value for compress: '{text}'")),
            },
        };
        Ok(Self { size, number, compress })
    }
}

/// `10m`, `1.5 GB`, `512KiB`, `1000`: decimal multiples, as Docker's
/// `FromHumanSize` reads them.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let prefix = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let factor = match prefix {
        "" if unit != "ib" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "p" => 1e15,
        _ => return None,
    };
    let value = number.parse::<f64>().ok()? * factor;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (value.is_finite() && value < 9e18).then_some(value as u64)
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn attributes(options: &Options, info: &LogInfo<'_>) -> Result<Options, LogOptError> {
    let env: BTreeMap<&str, &str> = info.env.iter().filter_map(|e| e.split_once('=')).collect();
    let labels: BTreeMap<&str, &str> =
        info.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut found = Options::new();
    for (source, list, pattern) in [(&labels, "labels", "labels-regex"), (&env, "env", "env-regex")]
    {
        let wanted = options.get(list).map(|l| l.split(',').collect::<Vec<_>>());
        let pattern = match options.get(pattern) {
            Some(text) => Some(Regex::new(text).map_err(|e| {
                LogOptError::Invalid(format!("invalid log opt {pattern}={text}: {e}"))
            })?),
            None => None,
        };
        for (key, value) in source {
            if wanted.as_ref().is_some_and(|w| w.contains(key))
                || pattern.as_ref().is_some_and(|p| p.is_match(key))
            {
                found.insert((*key).to_owned(), (*value).to_owned());
            }
        }
    }
    if let Some(template) = options.get("tag").filter(|t| !t.is_empty()) {
        found.insert("tag".into(), tag(template, info)?);
    }
    Ok(found)
}

/// Fills in `{{.ID}}` and the like. Other actions of Go's templates are refused.
fn tag(template: &str, info: &LogInfo<'_>) -> Result<String, LogOptError> {
    let short = |id: &str| {
        let id = id.strip_prefix("sha256:").unwrap_or(id);
        id.get(..12).unwrap_or(id).to_owned()
    };
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((action, after)) = after.split_once("}}") else {
            return invalid(format!("invalid log tag '{template}': unclosed action"));
        };
        out.push_str(before);
        rest = after;
        out.push_str(&match action.trim() {
            ".ID" => short(info.container_id),
            ".FullID" => info.container_id.to_owned(),
            ".Name" => info.container_name.to_owned(),
            ".ImageID" => short(info.image_id),
            ".ImageFullID" => info.image_id.to_owned(),
            ".ImageName" => info.image_name.to_owned(),
            ".Command" => info.command.to_owned(),
            ".DaemonName" => "sampan".to_owned(),
            other => {
                return invalid(format!(
                    "invalid log tag '{template}': '{other}' is not supported, use .ID, .FullID, \
                     .Name, .ImageID, .ImageFullID, .ImageName, .Command or .DaemonName"
                ));
            }
        });
    }
    out.push_str(rest);
    Ok(out)
}

fn syslog(options: &Options, info: &LogInfo<'_>) -> Result<LogSetup, LogOptError> {
    check_names("syslog", options, SYSLOG_OPTIONS)?;
    let text = |name: &str| options.get(name).map_or("", String::as_str);
    let address = syslog_address(text("syslog-address"))?;
    let local = !matches!(address, SyslogAddress::Udp(_) | SyslogAddress::Tcp(_));
    let format = match text("syslog-format") {
        "" if local => SyslogFormat::Local,
        "" | "rfc3164" => SyslogFormat::Rfc3164,
        "rfc5424" => SyslogFormat::Rfc5424,
        "rfc5424micro" => SyslogFormat::Rfc5424Micro,
        other => return invalid(format!("Invalid syslog format: {other}")),
    };
    let template = Some(text("tag")).filter(|t| !t.is_empty()).unwrap_or("{{.ID}}");
    let buffer = match options.get("max-buffer-size") {
        None => DEFAULT_BUFFER,
        Some(text) => match parse_size(text) {
            Some(size) if size > 0 => size,
            _ => return invalid(format!("error parsing option max-buffer-size: '{text}'")),
        },
    };
    Ok(LogSetup::Syslog {
        address,
        facility: facility(text("syslog-facility"))?,
        tag: tag(template, info)?,
        format,
        buffer,
    })
}

fn syslog_address(text: &str) -> Result<SyslogAddress, LogOptError> {
    if text.is_empty() {
        return Ok(SyslogAddress::Local);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return invalid(format!("syslog-address should be in form proto://address, got {text}"));
    };
    let host = || match rest.rsplit_once(':') {
        _ if rest.is_empty() || rest.contains('/') => {
            invalid(format!("syslog-address {text}: host and port expected"))
        }
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(rest.to_owned()),
        Some((_, port)) if !port.ends_with(']') => {
            invalid(format!("syslog-address {text}: invalid port {port}"))
        }
        _ => Ok(format!("{rest}:514")),
    };
    match scheme {
        "unix" | "unixgram" if !rest.starts_with('/') => {
            invalid(format!("syslog-address {text}: an absolute path is expected"))
        }
        "unix" => Ok(SyslogAddress::Unix(PathBuf::from(rest))),
        "unixgram" => Ok(SyslogAddress::UnixGram(PathBuf::from(rest))),
        "udp" => host().map(SyslogAddress::Udp),
        "tcp" => host().map(SyslogAddress::Tcp),
        "tcp+tls" => invalid("syslog-address: tcp+tls is not supported, use udp, tcp or unix"),
        other => invalid(format!("unsupported scheme: '{other}'")),
    }
}

const FACILITIES: [&str; 12] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp",
];

fn facility(text: &str) -> Result<u8, LogOptError> {
    if text.is_empty() {
        return Ok(3);
    }
    if let Some(i) = FACILITIES.iter().position(|f| *f == text) {
        return Ok(u8::try_from(i).unwrap_or(3));
    }
    let number = match text.strip_prefix("local").map(str::parse::<u8>) {
        Some(Ok(n)) if n < 8 => Some(16 + n),
        _ => text.parse().ok().filter(|n| *n < 24),
    };
    number.map_or_else(|| invalid(format!("invalid syslog facility: {text}")), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn refused(driver: &str, pairs: &[(&str, &str)]) -> String {
        validate(driver, &options(pairs)).unwrap_err().to_string()
    }

    #[test]
    fn rotation_is_on_by_default() {
        let info = LogInfo { container_id: "abc", ..LogInfo::default() };
        let setup = setup("", &Options::new(), &info, Path::new("/d")).unwrap();
        let expected = LogSetup::JsonFile {
            path: "/d/abc-json.log".into(),
            max_size: 20_000_000,
            max_file: 3,
            compress: false,
            attrs: Options::new(),
        };
        assert_eq!(setup, expected);
    }

    #[test]
    fn attributes_are_those_asked_for() {
        let env = ["A=1".to_owned(), "OS_B=2".to_owned(), "C=3".to_owned()];
        let info = LogInfo {
            container_id: "0123456789abcdef",
            container_name: "web",
            env: &env,
            labels: options(&[("x", "y"), ("z", "w")]),
            ..LogInfo::default()
        };
        let opts = options(&[
            ("labels", "x,none"),
            ("env", "A"),
            ("env-regex", "^OS_"),
            ("tag", "{{.Name}}/{{ .ID }}"),
        ]);
        let expected =
            options(&[("A", "1"), ("OS_B", "2"), ("x", "y"), ("tag", "web/0123456789ab")]);
        assert_eq!(attributes(&opts, &info), Ok(expected));
    }

    #[test]
    fn wrong_options_are_refused_in_dockers_words() {
        for (driver, opts, message) in [
            ("json-file", &[("x", "1")][..], "unknown log opt 'x' for json-file log driver"),
            ("local", &[("labels", "a")], "unknown log opt 'labels' for local log driver"),
            ("fluentd", &[], "logger: no log driver named 'fluentd' is registered"),
            ("json-file", &[("max-file", "0")], "max-file cannot be less than 1"),
            ("json-file", &[("max-size", "0")], "max-size must be a positive number"),
            ("json-file", &[("max-size", "1x")], "invalid size: '1x'"),
            (
                "json-file",
                &[("compress", "true"), ("max-file", "1")],
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            ("json-file", &[("mode", "fast")], "logger: logging mode not supported: fast"),
            (
                "json-file",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            ("syslog", &[("syslog-address", "http://x")], "unsupported scheme: 'http'"),
            ("syslog", &[("syslog-facility", "local8")], "invalid syslog facility: local8"),
        ] {
            assert_eq!(refused(driver, opts), message);
        }
        assert!(refused("json-file", &[("mode", "non-blocking")]).contains("page cache"));
        assert!(refused("json-file", &[("tag", "{{json .}}")]).contains("not supported"));
        assert!(refused("json-file", &[("env-regex", "(")]).contains("env-regex"));
        assert!(refused("syslog", &[("syslog-address", "tcp+tls://h:1")]).contains("tls"));
    }

    #[test]
    fn sizes_are_decimal() {
        for (text, size) in [("10m", 10_000_000), ("1.5k", 1500), ("2 GB", 2_000_000_000), ("7", 7)]
        {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "m", "-1", "1e9", "1..2", "1ib", "∞"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn syslog_addresses() {
        let address = |a| syslog_address(a).unwrap();
        assert_eq!(address("udp://10.0.0.1"), SyslogAddress::Udp("10.0.0.1:514".into()));
        assert_eq!(address("tcp://[::1]:99"), SyslogAddress::Tcp("[::1]:99".into()));
        assert_eq!(address("udp://[::1]"), SyslogAddress::Udp("[::1]:514".into()));
        assert_eq!(address("unixgram:///dev/log"), SyslogAddress::UnixGram("/dev/log".into()));
    }
}
