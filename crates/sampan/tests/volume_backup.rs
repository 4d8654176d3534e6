//! Backups of volumes by the command, by the clock, and across deaths of the
//! daemon.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{SAMPAN, SOON, certificates, field, has, host};
use sampan_testkit::{Host, eventually, missing_programs, skip};

/// Runs `sampan volume …` with the passphrase; code and output.
fn volume(h: &Host, args: &str) -> (i32, String) {
    with_passphrase(h, "correct horse", args)
}

fn with_passphrase(h: &Host, passphrase: &str, args: &str) -> (i32, String) {
    let out = h.run(&format!(
        "SAMPAN_BACKUP_PASSWORD='{passphrase}' {SAMPAN} -H $DOCKER_HOST volume {args}"
    ));
    (out.code, format!("{}{}", out.text(), out.errors()))
}

#[track_caller]
fn done(h: &Host, args: &str) -> String {
    let (code, text) = volume(h, args);
    assert_eq!(code, 0, "volume {args}: {text}");
    text
}

fn repository(h: &Host) -> PathBuf {
    h.dir().join("repository")
}

fn content(h: &Host, name: &str) -> PathBuf {
    h.docker(&format!("volume inspect -f '{{{{.Mountpoint}}}}' {name}")).trim().into()
}

/// A volume with a file `f` that holds `text`.
fn volume_with(h: &Host, name: &str, text: &str) {
    h.docker(&format!("volume create {name}"));
    fs::write(content(h, name).join("f"), text).unwrap();
}

fn read(h: &Host, name: &str) -> String {
    fs::read_to_string(content(h, name).join("f")).unwrap_or_default()
}

/// Volumes that are for a while beside others.
fn beside(h: &Host) -> String {
    h.docker("volume ls -q --filter name=\\.data$ --filter name=\\.other$")
}

#[test]
fn a_volume_is_backed_up_listed_checked_and_restored() {
    let Some((_lan, h)) = host("a_volume_is_backed_up_listed_checked_and_restored") else { return };
    let to = repository(&h);
    let to = to.display();
    volume_with(&h, "data", "one");
    fs::set_permissions(content(&h, "data"), fs::Permissions::from_mode(0o1770)).unwrap();
    let mut events = h.events();
    let first = done(&h, &format!("backup -q data {to}"));
    events.wait("backup", "data", SOON);
    fs::write(content(&h, "data").join("f"), "two").unwrap();
    has(&done(&h, &format!("backup data {to}")), &["1 files", "1 changed"]);
    let ids = done(&h, &format!("backup ls -q {to}"));
    assert_eq!(ids.lines().count(), 2);
    has(&ids, &[first.trim()]);
    has(&done(&h, &format!("backup ls {to} --volume data")), &["BACKUP ID", "data", "1"]);
    has(&done(&h, &format!("backup check {to}")), &["whole"]);
    let status = h.docker("volume inspect -f '{{json .Status}}' data");
    has(&status, &["LastSuccess", "Snapshot"]);

    // Another volume, and the older one.
    done(&h, &format!("restore copy --from '{to}#{}'", first.trim()));
    assert_eq!(read(&h, "copy"), "one");
    let mode = fs::metadata(content(&h, "copy")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1770);
    // Over content only when that is said.
    fs::write(content(&h, "data").join("f"), "three").unwrap();
    let (code, text) = volume(&h, &format!("restore data --from {to}"));
    assert_ne!(code, 0);
    has(&text, &["data", "not empty", "--replace"]);
    assert_eq!(read(&h, "data"), "three");
    h.docker("run -d --name user -v data:/d busybox sleep 1000");
    let (code, text) = volume(&h, &format!("restore data --from {to} --replace"));
    assert_ne!(code, 0);
    has(&text, &["in use"]);
    h.docker("stop -t 0 user");
    done(&h, &format!("restore data --from {to} --replace"));
    events.wait("restore", "data", SOON);
    h.docker("start user");
    assert_eq!(h.docker("exec user cat /d/f").trim(), "two");
    assert_eq!(beside(&h), "");

    let (code, text) = with_passphrase(&h, "wrong", &format!("backup ls {to}"));
    assert_ne!(code, 0);
    has(&text, &["passphrase is wrong"]);
    let (code, text) = volume(&h, &format!("restore none --from {to}"));
    assert_ne!(code, 0);
    has(&text, &["no backup of none"]);
    assert!(!h.log_tail().contains("correct horse"), "the passphrase is in the log");
}

#[test]
fn another_daemon_keeps_the_backups() {
    let test = "another_daemon_keeps_the_backups";
    let Some((lan, h)) = host(test) else { return };
    if !missing_programs(&["openssl"]).is_empty() {
        return skip(test, "openssl is not installed");
    }
    let mut keeper = lan.host("h2");
    let (dir, address) = (keeper.dir().display().to_string(), keeper.ip.to_string());
    keeper.sh(&certificates(&dir, &address));
    for (who, to) in [("client", "tls"), ("stranger", "no")] {
        keeper.sh(&format!(
            "mkdir {dir}/{to}; cd {dir}; cp ca.pem {to}; cp {who}.pem {to}/cert.pem; cp {who}.key {to}/key.pem"
        ));
    }
    let listen = [
        format!("-H=tcp://{address}:2376"),
        "--tlsverify".to_owned(),
        format!("--tlscacert={dir}/ca.pem"),
        format!("--tlscert={dir}/server.pem"),
        format!("--tlskey={dir}/server.key"),
    ];
    keeper.start_daemon(SAMPAN, &listen.each_ref().map(String::as_str));
    let (to, tls) = (format!("sampan://{address}/safe"), format!("--tls-dir {dir}/tls"));

    volume_with(&h, "data", "one");
    let (code, text) = volume(&h, &format!("backup data {to} --tls-dir {dir}/no"));
    assert_ne!(code, 0, "a stranger was served: {text}");
    has(&text, &[&format!("sampan://{address}:2376/safe"), "certificate"]);
    assert_eq!(keeper.docker("volume ls -q"), "");

    let first = done(&h, &format!("backup -q data {to} {tls}"));
    fs::write(content(&h, "data").join("f"), "two").unwrap();
    fs::write(content(&h, "data").join("large"), vec![7; 40 << 20]).unwrap();
    let second = done(&h, &format!("backup -q data {to} {tls}"));
    assert_eq!(done(&h, &format!("backup ls -q {to} {tls}")).lines().count(), 2);
    has(&done(&h, &format!("backup check {to} {tls}")), &["whole"]);
    done(&h, &format!("restore copy --from '{to}#{}' {tls}", first.trim()));
    assert_eq!(read(&h, "copy"), "one");
    done(&h, &format!("restore again --from '{to}#{}' {tls}", second.trim()));
    assert_eq!(read(&h, "again"), "two");
    assert_eq!(fs::metadata(content(&h, "again").join("large")).unwrap().len(), 40 << 20);

    // The keeper has them in a volume, and restic reads what it serves.
    let kept = content(&keeper, "safe");
    assert!(
        kept.join("config").exists() && fs::read_dir(kept.join("snapshots")).unwrap().count() == 2
    );
    done(&keeper, &format!("backup check {}", kept.display()));
    if missing_programs(&["restic"]).is_empty() {
        h.sh(&format!("cat {dir}/client.pem {dir}/client.key > {dir}/both.pem"));
        let listed = h.sh(&format!(
            "RESTIC_PASSWORD='correct horse' restic --no-cache --cacert {dir}/ca.pem --tls-client-cert \
             {dir}/both.pem -r rest:https://{address}:2376/sampan/repositories/safe/ check --read-data"
        ));
        has(&listed, &["no errors were found"]);
    } else {
        skip(test, "its part with restic: it is not installed");
    }

    // A volume with other things in it is no place for a repository.
    volume_with(&keeper, "full", "mine");
    let (code, text) = volume(&h, &format!("backup data sampan://{address}/full {tls}"));
    assert_ne!(code, 0);
    has(&text, &["something else", "name another"]);
    assert_eq!(read(&keeper, "full"), "mine");
    eventually("nobody uses the volume any more", SOON, || {
        (keeper.run("docker volume rm safe").code == 0).then_some(())
    });
    let (_, text) = volume(&h, &format!("backup ls {to} {tls}"));
    has(&text, &["there is none"]);
}

#[test]
fn a_damaged_backup_replaces_nothing_unless_the_rest_is_wanted() {
    let Some((_lan, h)) = host("a_damaged_backup_replaces_nothing_unless_the_rest_is_wanted")
    else {
        return;
    };
    let to = repository(&h);
    let at = to.display();
    volume_with(&h, "data", "whole");
    let large: Vec<u8> = (0..300_000u32)
        .flat_map(|n| (n ^ (n >> 3)).wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    fs::write(content(&h, "data").join("large"), large).unwrap();
    done(&h, &format!("backup data {at}"));
    let packs = h.sh(&format!("find {at}/data -type f -size +500k"));
    let pack = packs.trim();
    h.sh(&format!("printf damaged | dd of={pack} bs=1 seek=100000 conv=notrunc 2>&1"));
    let name = pack.rsplit('/').next().unwrap();
    let (code, text) = volume(&h, &format!("restore data --from {at} --replace"));
    assert_ne!(code, 0);
    has(&text, &["large", name, "--partial"]);
    assert_eq!(read(&h, "data"), "whole");
    assert_eq!(beside(&h), "");
    let (code, text) = volume(&h, &format!("restore other --from {at} --partial --replace"));
    assert_ne!(code, 0, "{text}");
    let id = done(&h, &format!("backup ls -q {at}"));
    let (code, text) = volume(&h, &format!("restore other --from '{at}#{}' --partial", id.trim()));
    assert_eq!(code, 3, "{text}");
    has(&text, &["large", name]);
    let (code, text) = volume(&h, &format!("backup check {at}"));
    assert_eq!(code, 1);
    has(&text, &[name]);
}

#[test]
fn volumes_are_backed_up_by_the_clock() {
    let Some((_lan, h)) = host("volumes_are_backed_up_by_the_clock") else { return };
    let (to, key) = (repository(&h), h.dir().join("key"));
    fs::write(&key, "correct horse\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let labels = |more: &str| {
        format!(
            "--label sampan.backup='* * * * *' --label sampan.backup.to={} \
             --label sampan.backup.key-file={} {more}",
            to.display(),
            key.display()
        )
    };
    let (_, refused) = h
        .docker_fails(&format!("volume create {} bad", labels("--label sampan.backup.keep=often")));
    has(&refused, &["often", "7d,4w"]);
    let (_, refused) = h.docker_fails("volume create --label sampan.backup=@daily bad");
    has(&refused, &["sampan.backup.to"]);
    let mut events = h.events();
    h.docker(&format!("volume create {} data", labels("--label sampan.backup.keep=1")));
    has(&h.docker("volume inspect -f '{{json .Status}}' data"), &["Next", "* * * * *"]);
    events.wait("backup", "data", 2 * SOON + SOON);
    let of = |name| h.docker(&format!("volume inspect -f '{{{{json .Status}}}}' {name}"));
    eventually("the outcome is shown", SOON, || {
        of("data").contains("LastSuccess\":\"20").then_some(())
    });
    assert_eq!(done(&h, &format!("backup ls -q {}", to.display())).lines().count(), 1);
}

/// At each death the volume holds what it held or what is restored, whole.
#[cfg(feature = "fault-points")]
#[test]
fn a_death_leaves_the_old_volume_or_the_new_one() {
    let Some((_lan, mut h)) = host("a_death_leaves_the_old_volume_or_the_new_one") else { return };
    let to = repository(&h);
    volume_with(&h, "data", "new");
    done(&h, &format!("backup data {}", to.display()));
    for point in sampan_engine::fault::BACKUPS {
        h.docker("volume rm -f data");
        volume_with(&h, "data", "old");
        h.stop_daemon("TERM");
        h.start_daemon_with(SAMPAN, &[], &[("SAMPAN_FAULT", point)]);
        let verb = if point.starts_with("volume-backup:") {
            format!("backup --freeze data {}", to.display())
        } else {
            format!("restore data --from {} --replace", to.display())
        };
        let (code, text) = volume(&h, &verb);
        assert_ne!(code, 0, "{point}: {text}");
        h.wait_daemon();
        h.start_daemon(SAMPAN, &[]);
        assert_eq!(beside(&h), "", "{point}");
        let now = read(&h, "data");
        assert!(now == "old" || now == "new", "{point}: {now:?}");
        let whole = point.ends_with("after-whole")
            || point.ends_with("after-remove")
            || point.ends_with("after-rename");
        assert_eq!(now == "new", whole, "{point}: {now:?}");
        assert_eq!(field(&h, "data", "{{.Name}}"), "data");
        // Older backups are whole, and a new one is made.
        done(&h, &format!("backup check {}", to.display()));
        if point.starts_with("volume-backup:") {
            done(&h, &format!("backup data {}", to.display()));
            fs::remove_dir_all(&to).unwrap();
            fs::write(content(&h, "data").join("f"), "new").unwrap();
            done(&h, &format!("backup data {}", to.display()));
        }
    }
}
