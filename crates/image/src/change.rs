//! `--change` of `commit` and `import`: Dockerfile instructions that alter an
//! image's configuration.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use sampan_types::docker;
use thiserror::Error;

/// Why a text is not a change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Not an instruction that can be used here.
    #[error("{0} is not a valid change command")]
    Unknown(String),
    /// The instruction's arguments are wrong.
    #[error("invalid {instruction} in --change: {reason}")]
    Arguments {
        /// The instruction.
        instruction: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// One instruction: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
/// STOPSIGNAL, USER, VOLUME or WORKDIR.
#[derive(Debug, Clone, PartialEq)]
pub struct Change(Instruction);

#[derive(Debug, Clone, PartialEq)]
enum Instruction {
    Cmd(Command),
    Entrypoint(Command),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Healthcheck(docker::HealthConfig, Option<Command>),
    Label(Vec<(String, String)>),
    OnBuild(String),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// A command: a list of words, or text for the shell.
#[derive(Debug, Clone, PartialEq)]
enum Command {
    Words(Vec<String>),
    Shell(String),
}

impl Command {
    fn parse(text: &str) -> Self {
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(words) => Self::Words(words),
            Err(_) => Self::Shell(text.to_owned()),
        }
    }

    fn words(&self, config: &docker::ImageConfig) -> Vec<String> {
        match self {
            Self::Words(words) => words.clone(),
            Self::Shell(text) => {
                let shell = config.shell.clone().filter(|s| !s.is_empty());
                let mut words =
                    shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                words.push(text.clone());
                words
            }
        }
    }
}

impl FromStr for Change {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, ChangeError> {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (word, rest) = (word.to_ascii_uppercase(), rest.trim());
        let wrong = |reason: String| ChangeError::Arguments { instruction: word.clone(), reason };
        if !KNOWN.contains(&word.as_str()) {
            return Err(ChangeError::Unknown(word));
        }
        if rest.is_empty() {
            return Err(wrong("it needs an argument".to_owned()));
        }
        let instruction = match word.as_str() {
            "CMD" => Instruction::Cmd(Command::parse(rest)),
            "ENTRYPOINT" => Instruction::Entrypoint(Command::parse(rest)),
            "ENV" => Instruction::Env(pairs(rest).map_err(wrong)?),
            "LABEL" => Instruction::Label(pairs(rest).map_err(wrong)?),
            "EXPOSE" => Instruction::Expose(rest.split_whitespace().map(str::to_owned).collect()),
            "HEALTHCHECK" => healthcheck(rest).map_err(wrong)?,
            "ONBUILD" => Instruction::OnBuild(on_build(rest).map_err(wrong)?),
            "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
            "USER" => Instruction::User(rest.to_owned()),
            "VOLUME" => match Command::parse(rest) {
                Command::Words(words) => Instruction::Volume(words),
                Command::Shell(text) => {
                    Instruction::Volume(split(&text).map_err(wrong)?.into_iter().collect())
                }
            },
            _ => Instruction::Workdir(rest.to_owned()),
        };
        if let Instruction::Expose(ports) = &instruction {
            for port in ports.iter().filter(|p| !p.contains('$')) {
                expand_ports(port).map_err(wrong)?;
            }
        }
        Ok(Self(instruction))
    }
}

const KNOWN: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl Change {
    /// Alters `config` as the instruction says. Variables in the arguments are
    /// those of the configuration's environment.
    pub fn apply(&self, config: &mut docker::ImageConfig) {
        let variables: BTreeMap<String, String> = config
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let expand = |text: &str| expand(text, &variables);
        match &self.0 {
            Instruction::Cmd(command) => config.cmd = Some(command.words(config)),
            Instruction::Entrypoint(command) => {
                config.entrypoint = Some(command.words(config));
                // The old arguments were the old program's.
                config.cmd = None;
            }
            Instruction::Env(pairs) => {
                let env = config.env.get_or_insert_default();
                for (key, value) in pairs {
                    let entry = format!("{key}={}", expand(value));
                    let same = |e: &&mut String| e.split('=').next() == Some(key);
                    match env.iter_mut().find(same) {
                        Some(old) => *old = entry,
                        None => env.push(entry),
                    }
                }
            }
            Instruction::Label(pairs) => {
                let labels = config.labels.get_or_insert_default();
                labels.extend(pairs.iter().map(|(k, v)| (expand(k), expand(v))));
            }
            Instruction::Expose(ports) => {
                let ports = ports.iter().flat_map(|p| expand_ports(&expand(p)).unwrap_or_default());
                add_new(config.exposed_ports.get_or_insert_default(), ports);
            }
            Instruction::Healthcheck(health, command) => {
                let mut health = health.clone();
                if let Some(command) = command {
                    health.test = Some(match command {
                        Command::Words(words) => {
                            std::iter::once("CMD".to_owned()).chain(words.clone()).collect()
                        }
                        Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                    });
                }
                config.healthcheck = Some(health);
            }
            Instruction::OnBuild(text) => {
                config.on_build.get_or_insert_default().push(text.clone());
            }
            Instruction::StopSignal(signal) => config.stop_signal = Some(expand(signal)),
            Instruction::User(user) => config.user = Some(expand(user)),
            Instruction::Volume(paths) => {
                add_new(config.volumes.get_or_insert_default(), paths.iter().map(|p| expand(p)));
            }
            Instruction::Workdir(path) => {
                let base = config.working_dir.clone().unwrap_or_default();
                config.working_dir = Some(join(&base, &expand(path)));
            }
        }
    }
}

fn add_new(to: &mut Vec<String>, new: impl Iterator<Item = String>) {
    for item in new {
        if !to.contains(&item) {
            to.push(item);
        }
    }
}

/// `path` from the directory `base`, without dots.
fn join(base: &str, path: &str) -> String {
    let mut joined = PathBuf::from("/");
    for part in Path::new("/").join(base).join(path).components() {
        match part {
            Component::Normal(name) => joined.push(name),
            Component::ParentDir => {
                joined.pop();
            }
            _ => {}
        }
    }
    joined.to_string_lossy().into_owned()
}

/// Words, separated by white space, with quotes and backslashes as in the shell.
fn split(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let next = chars.next().ok_or("it ends with a backslash")?;
                let word = word.get_or_insert_default();
                // Kept before a dollar sign, for the expansion that follows.
                if next == '$' || (quote.is_some() && next != '"' && next != '\\') {
                    word.push('\\');
                }
                word.push(next);
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, quote) => {
                let word = word.get_or_insert_default();
                if c == '$' && quote == Some('\'') {
                    word.push('\\');
                }
                word.push(c);
            }
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// `key=value key2="value 2"`, or the old form `key value`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = split(text)?;
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) =
            text.split_once(char::is_whitespace).ok_or("it must have two arguments")?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("can't find = in {word:?}: it must be of the form name=value")),
        })
        .collect()
}

/// `8080`, `53/udp`, `8000-8010/tcp`: as the API writes ports.
fn expand_ports(text: &str) -> Result<Vec<String>, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid protocol {protocol:?} of port {text:?}"));
    }
    let port = |p: &str| p.parse::<u16>().map_err(|_| format!("invalid port {text:?}"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (port(first)?, port(last)?);
    if first > last || first == 0 {
        return Err(format!("invalid port {text:?}"));
    }
    Ok((first..=last).map(|p| format!("{p}/{protocol}")).collect())
}

fn on_build(text: &str) -> Result<String, String> {
    let word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match word.as_str() {
        "ONBUILD" => Err("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        "FROM" | "MAINTAINER" => Err(format!("{word} isn't allowed as an ONBUILD trigger")),
        _ => Ok(text.to_owned()),
    }
}

fn healthcheck(text: &str) -> Result<Instruction, String> {
    let mut health = docker::HealthConfig::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').ok_or(format!("--{option} needs a value"))?;
        match name {
            "interval" => health.interval = Some(duration(value)?),
            "timeout" => health.timeout = Some(duration(value)?),
            "start-period" => health.start_period = Some(duration(value)?),
            "start-interval" => health.start_interval = Some(duration(value)?),
            "retries" => {
                let retries =
                    value.parse::<u32>().map_err(|_| format!("invalid retries {value:?}"))?;
                health.retries = Some(i64::from(retries));
            }
            _ => return Err(format!("unknown flag --{name}")),
        }
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match word.to_ascii_uppercase().as_str() {
        "NONE" if command.trim().is_empty() => {
            health.test = Some(vec!["NONE".to_owned()]);
            Ok(Instruction::Healthcheck(health, None))
        }
        "CMD" if !command.trim().is_empty() => {
            Ok(Instruction::Healthcheck(health, Some(Command::parse(command.trim()))))
        }
        _ => Err("NONE, or CMD with a command, is expected".to_owned()),
    }
}

/// A duration in Go's form (`1m30s`, `500ms`), in nanoseconds.
fn duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid duration {text:?}");
    if text == "0" {
        return Ok(0);
    }
    let (mut rest, mut total) = (text, 0f64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |i| digits + i);
        let factor = match &rest[digits..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(wrong()),
        };
        total += rest[..digits].parse::<f64>().map_err(|_| wrong())? * factor;
        rest = &rest[unit_end..];
    }
    if text.is_empty() || !(0.0..9e18).contains(&total) || (total > 0.0 && total < 1e6) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    Ok(total as i64)
}

/// Replaces `$name`, `${name}`, `${name:-default}` and `${name:+other}`.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if rest[at..].starts_with('\\') {
            match after.strip_prefix('$') {
                Some(tail) => (rest, _) = (tail, out.push('$')),
                None => (rest, _) = (after, out.push('\\')),
            }
            continue;
        }
        if let Some((inside, tail)) = after.strip_prefix('{').and_then(|t| t.split_once('}')) {
            out.push_str(&braced(inside, variables));
            rest = tail;
            continue;
        }
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, tail) = after.split_at(end.unwrap_or(after.len()));
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(variables.get(name).map_or("", String::as_str));
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

fn braced(inside: &str, variables: &BTreeMap<String, String>) -> String {
    let value = |name: &str| variables.get(name).filter(|v| !v.is_empty()).cloned();
    if let Some((name, default)) = inside.split_once(":-") {
        return value(name).unwrap_or_else(|| default.to_owned());
    }
    if let Some((name, other)) = inside.split_once(":+") {
        return value(name).map_or_else(String::new, |_| other.to_owned());
    }
    value(inside).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(changes: &[&str]) -> docker::ImageConfig {
        let mut config = docker::ImageConfig {
            env: Some(vec!["PATH=/bin".to_owned()]),
            cmd: Some(vec!["old".to_owned()]),
            ..Default::default()
        };
        for change in changes {
            change.parse::<Change>().unwrap_or_else(|e| panic!("{change}: {e}")).apply(&mut config);
        }
        config
    }

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|w| (*w).to_owned()).collect())
    }

    #[test]
    fn alters_as_a_dockerfile_would() {
        let config = apply(&[
            r#"ENTRYPOINT ["/init", "-x"]"#,
            "cmd echo $HOME",
            r#"ENV A="b c" D=e\ f PATH=$PATH:/x"#,
            "ENV OLD form of it",
            "EXPOSE 80 53/udp 8000-8001",
            "USER app:app",
            "VOLUME /data /more",
            r#"VOLUME ["/json"]"#,
            "WORKDIR /a/b",
            "WORKDIR ../c",
            "LABEL x=1 y='two words'",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f x || exit 1",
        ]);
        assert_eq!(config.entrypoint, words(&["/init", "-x"]));
        assert_eq!(config.cmd, words(&["/bin/sh", "-c", "echo $HOME"]));
        assert_eq!(config.env, words(&["PATH=/bin:/x", "A=b c", "D=e f", "OLD=form of it"]));
        assert_eq!(config.exposed_ports, words(&["80/tcp", "53/udp", "8000/tcp", "8001/tcp"]));
        assert_eq!(config.user.as_deref(), Some("app:app"));
        assert_eq!(config.volumes, words(&["/data", "/more", "/json"]));
        assert_eq!(config.working_dir.as_deref(), Some("/a/c"));
        assert_eq!(config.labels.unwrap()["y"], "two words");
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.on_build, words(&["RUN make"]));
        let health = config.healthcheck.unwrap();
        assert_eq!(health.test, words(&["CMD-SHELL", "curl -f x || exit 1"]));
        assert_eq!((health.interval, health.retries), (Some(90_000_000_000), Some(3)));
        let none = apply(&["HEALTHCHECK NONE"]);
        assert_eq!(none.healthcheck.unwrap().test, words(&["NONE"]));
        assert_eq!(apply(&["ENTRYPOINT x"]).cmd, None);
    }

    #[test]
    fn expands_variables() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$A-${A}-$B-", "1-1--"),
            ("${B:-x}${A:+y}${B:+z}", "xy"),
            (r"\$A$", "$A$"),
            ("${A", "${A"),
        ] {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for (text, message) in [
            ("FROM x", "FROM is not a valid change command"),
            ("RUN x", "RUN is not a valid change command"),
            ("", " is not a valid change command"),
        ] {
            assert_eq!(text.parse::<Change>().unwrap_err().to_string(), message);
        }
        for text in [
            "CMD",
            "ENV",
            "ENV A",
            "ENV =x",
            "LABEL a='b",
            "EXPOSE 0",
            "EXPOSE 99999",
            "EXPOSE 80/xyz",
            "EXPOSE 9-8",
            "ONBUILD FROM x",
            "HEALTHCHECK",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --x=1 CMD y",
            "HEALTHCHECK --interval=5 CMD y",
            "HEALTHCHECK NONE x",
        ] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
    }
}
