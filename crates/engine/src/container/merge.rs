//! What a container is configured with: the request over the image. Pure;
//! the rules are dockerd's.

use std::collections::{BTreeSet, HashMap};

use sampan_types::docker::{ContainerConfig, ContainerCreateBody, HealthConfig, ImageConfig};

/// The part of a request that configures the container itself.
#[must_use]
pub fn config_of(body: &ContainerCreateBody) -> ContainerConfig {
    let b = body.clone();
    ContainerConfig {
        hostname: b.hostname,
        domainname: b.domainname,
        user: b.user,
        attach_stdin: b.attach_stdin,
        attach_stdout: b.attach_stdout,
        attach_stderr: b.attach_stderr,
        exposed_ports: b.exposed_ports,
        tty: b.tty,
        open_stdin: b.open_stdin,
        stdin_once: b.stdin_once,
        env: b.env,
        cmd: b.cmd,
        healthcheck: b.healthcheck,
        args_escaped: b.args_escaped,
        image: b.image,
        volumes: b.volumes,
        working_dir: b.working_dir,
        entrypoint: b.entrypoint,
        network_disabled: b.network_disabled,
        on_build: b.on_build,
        labels: b.labels,
        stop_signal: b.stop_signal,
        stop_timeout: b.stop_timeout,
        shell: b.shell,
    }
}

/// Puts the image's configuration under the request's.
pub fn merge(config: &mut ContainerConfig, image: &ImageConfig) {
    text(&mut config.user, image.user.as_ref());
    union(&mut config.exposed_ports, image.exposed_ports.as_deref());
    env(&mut config.env, image.env.as_deref());
    labels(&mut config.labels, image.labels.as_ref());
    if none(config.entrypoint.as_deref()) {
        if none(config.cmd.as_deref()) {
            config.cmd.clone_from(&image.cmd);
            config.args_escaped = image.args_escaped;
        }
        // An entrypoint that is there but empty takes the image's away.
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if let Some(inherited) = &image.healthcheck {
        match &mut config.healthcheck {
            Some(own) => health(own, inherited),
            None => config.healthcheck = Some(inherited.clone()),
        }
    }
    text(&mut config.working_dir, image.working_dir.as_ref());
    union(&mut config.volumes, image.volumes.as_deref());
    text(&mut config.stop_signal, image.stop_signal.as_ref());
    if none(config.shell.as_deref()) {
        config.shell.clone_from(&image.shell);
    }
    if config.entrypoint.as_deref() == Some(&[String::new()][..]) {
        config.entrypoint = None;
    }
}

/// The program and its arguments: entrypoint, then command. `None` when there
/// is neither.
#[must_use]
pub fn command(config: &ContainerConfig) -> Option<(String, Vec<String>)> {
    let mut words = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned();
    let path = words.next()?;
    Some((path, words.collect()))
}

fn none(list: Option<&[String]>) -> bool {
    list.is_none_or(<[String]>::is_empty)
}

fn text(own: &mut Option<String>, inherited: Option<&String>) {
    if own.as_deref().unwrap_or_default().is_empty() {
        *own = inherited.cloned();
    }
}

fn union(own: &mut Option<Vec<String>>, inherited: Option<&[String]>) {
    let Some(inherited) = inherited.filter(|i| !i.is_empty()) else { return };
    let all: BTreeSet<String> =
        own.take().unwrap_or_default().into_iter().chain(inherited.iter().cloned()).collect();
    *own = Some(all.into_iter().collect());
}

fn key(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(k, _)| k)
}

fn env(own: &mut Option<Vec<String>>, inherited: Option<&[String]>) {
    let Some(inherited) = inherited else { return };
    let own = own.get_or_insert_default();
    let missing: Vec<String> =
        inherited.iter().filter(|i| !own.iter().any(|o| key(o) == key(i))).cloned().collect();
    own.extend(missing);
}

fn labels(own: &mut Option<HashMap<String, String>>, inherited: Option<&HashMap<String, String>>) {
    let Some(inherited) = inherited else { return };
    let own = own.get_or_insert_default();
    for (k, v) in inherited {
        own.entry(k.clone()).or_insert_with(|| v.clone());
    }
}

fn health(own: &mut HealthConfig, inherited: &HealthConfig) {
    fn number(own: &mut Option<i64>, inherited: Option<i64>) {
        if own.unwrap_or(0) == 0 {
            *own = inherited;
        }
    }
    if none(own.test.as_deref()) {
        own.test.clone_from(&inherited.test);
    }
    number(&mut own.interval, inherited.interval);
    number(&mut own.timeout, inherited.timeout);
    number(&mut own.retries, inherited.retries);
    number(&mut own.start_period, inherited.start_period);
    number(&mut own.start_interval, inherited.start_interval);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|w| (*w).to_owned()).collect())
    }

    fn image() -> ImageConfig {
        ImageConfig {
            user: Some("www".into()),
            exposed_ports: list(&["80/tcp"]),
            env: list(&["PATH=/bin", "A=image"]),
            cmd: list(&["serve"]),
            entrypoint: list(&["/init"]),
            volumes: list(&["/data"]),
            labels: Some([("a".to_owned(), "image".to_owned())].into()),
            healthcheck: Some(HealthConfig {
                test: list(&["CMD", "true"]),
                interval: Some(5),
                ..Default::default()
            }),
            stop_signal: Some("SIGQUIT".into()),
            ..Default::default()
        }
    }

    #[test]
    fn everything_is_inherited() {
        let mut c = ContainerConfig::default();
        merge(&mut c, &image());
        assert_eq!(command(&c), Some(("/init".into(), vec!["serve".into()])));
        assert_eq!(c.user.as_deref(), Some("www"));
        assert_eq!(c.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(c.env, list(&["PATH=/bin", "A=image"]));
    }

    #[test]
    fn the_request_wins() {
        let mut c = ContainerConfig {
            env: list(&["A=mine", "B=1"]),
            cmd: list(&["sh"]),
            exposed_ports: list(&["443/tcp"]),
            labels: Some([("a".to_owned(), "mine".to_owned())].into()),
            healthcheck: Some(HealthConfig { retries: Some(2), ..Default::default() }),
            ..Default::default()
        };
        merge(&mut c, &image());
        assert_eq!(c.env, list(&["A=mine", "B=1", "PATH=/bin"]));
        assert_eq!(command(&c), Some(("/init".into(), vec!["sh".into()])));
        assert_eq!(c.exposed_ports, list(&["443/tcp", "80/tcp"]));
        assert_eq!(c.labels.unwrap()["a"], "mine");
        let h = c.healthcheck.unwrap();
        assert_eq!((h.retries, h.interval, h.test), (Some(2), Some(5), list(&["CMD", "true"])));
    }

    #[test]
    fn an_entrypoint_resets_the_command() {
        let mut c = ContainerConfig { entrypoint: list(&["echo"]), ..Default::default() };
        merge(&mut c, &image());
        assert_eq!(command(&c), Some(("echo".into(), vec![])));
    }

    #[test]
    fn an_empty_entrypoint_takes_the_images_away() {
        for empty in [list(&[""]), list(&[])] {
            let mut c =
                ContainerConfig { entrypoint: empty, cmd: list(&["ls"]), ..Default::default() };
            merge(&mut c, &image());
            assert_eq!(command(&c), Some(("ls".into(), vec![])));
        }
        let mut c = ContainerConfig { entrypoint: list(&[""]), ..Default::default() };
        merge(&mut c, &image());
        assert_eq!(command(&c), None);
    }
}
