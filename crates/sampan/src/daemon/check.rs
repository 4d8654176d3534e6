//! Refuses settings that dockerd knows and Sampan has no use for, and those
//! that would have no effect together: nothing is read and then ignored.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

use super::settings::Settings;

/// Checks what the engine doesn't see, or sees no longer.
pub fn settings(settings: &Settings) -> Result<()> {
    if settings.live_restore == Some(false) {
        bail!("live-restore can't be switched off: containers always outlive the daemon");
    }
    if settings.userland_proxy == Some(true) {
        bail!(
            "userland-proxy can't be switched on: published ports work without a proxy, on 127.0.0.1 too"
        );
    }
    match settings.storage_driver.as_deref() {
        None | Some("overlay2" | "overlayfs") => {}
        Some(other) => bail!("storage-driver {other} is not supported: use overlay2"),
    }
    match settings.store.as_deref() {
        None | Some("redb") => {}
        Some(other) => bail!("store {other} is not supported: use redb"),
    }
    if let Some(parent) = &settings.cgroup_parent {
        let parts = parent.trim_matches('/').split('/');
        if parent.trim_matches('/').is_empty()
            || parts.into_iter().any(|p| matches!(p, "" | "." | ".."))
        {
            bail!("cgroup-parent {parent:?}: a path such as /name is expected");
        }
    }
    metrics_address(settings)?;
    tls(settings)?;
    bridge(settings)
}

/// Where metrics are served.
pub fn metrics_address(settings: &Settings) -> Result<Option<SocketAddr>> {
    let parse = |a: &String| a.parse().with_context(|| format!("metrics-addr {a:?}"));
    settings.metrics_addr.as_ref().map(parse).transpose()
}

fn tls(settings: &Settings) -> Result<()> {
    if settings.tlsverify == Some(false) {
        bail!("tlsverify can't be switched off: with TLS, clients are always verified");
    }
    let files = [&settings.tlscacert, &settings.tlscert, &settings.tlskey];
    let given = files.iter().filter(|f| f.is_some()).count();
    if settings.tls == Some(false) && (given > 0 || settings.tlsverify == Some(true)) {
        bail!(
            "tls=false contradicts tlsverify, tlscacert, tlscert and tlskey: give one or the other"
        );
    }
    let wanted = settings.tls == Some(true) || settings.tlsverify == Some(true) || given > 0;
    if wanted && given < files.len() {
        bail!("TLS needs tlscacert, tlscert and tlskey: clients are always verified");
    }
    Ok(())
}

/// Without a default bridge its settings have no effect.
fn bridge(settings: &Settings) -> Result<()> {
    let six =
        [("bip6", settings.bip6.is_some()), ("fixed-cidr-v6", settings.fixed_cidr_v6.is_some())];
    if settings.ipv6 != Some(true)
        && let Some((name, _)) = six.iter().find(|(_, given)| *given)
    {
        bail!("{name} has no effect without ipv6: add --ipv6, or leave it out");
    }
    if settings.bridge.as_deref() != Some("none") {
        return Ok(());
    }
    let given = [
        ("bip", settings.bip.is_some()),
        ("fixed-cidr", settings.fixed_cidr.is_some()),
        ("ipv6", settings.ipv6.is_some()),
        ("bip6", settings.bip6.is_some()),
        ("fixed-cidr-v6", settings.fixed_cidr_v6.is_some()),
        ("default-gateway", settings.default_gateway.is_some()),
        ("mtu", settings.mtu.is_some()),
        ("icc", settings.icc.is_some()),
        ("ip-masq", settings.ip_masq.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => bail!("{name} has no effect with bridge none: leave one of them out"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut with = Settings::default();
        change(&mut with);
        settings(&with).unwrap_err().to_string()
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        let has = |text: String, word: &str| assert!(text.contains(word), "{word} in {text}");
        has(refused(|s| s.live_restore = Some(false)), "live-restore");
        has(refused(|s| s.userland_proxy = Some(true)), "userland-proxy");
        has(refused(|s| s.storage_driver = Some("zfs".into())), "zfs");
        has(refused(|s| s.tlsverify = Some(false)), "tlsverify");
        has(refused(|s| s.tlscert = Some("/x".into())), "tlskey");
        has(refused(|s| s.cgroup_parent = Some("/../x".into())), "cgroup-parent");
        has(refused(|s| s.metrics_addr = Some("9323".into())), "metrics-addr");
        has(
            refused(|s| {
                s.tls = Some(false);
                s.tlscacert = Some("/x".into());
            }),
            "contradicts",
        );
        has(refused(|s| s.fixed_cidr_v6 = Some("fd00:1::/64".into())), "--ipv6");
        has(
            refused(|s| {
                (s.ipv6, s.bip6) = (Some(false), Some("fd00:1::1/64".into()));
            }),
            "bip6 has no effect",
        );
        has(
            refused(|s| {
                s.bridge = Some("none".into());
                s.mtu = Some(1400);
            }),
            "mtu",
        );
        assert!(settings(&Settings::default()).is_ok());
    }
}
