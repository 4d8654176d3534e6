//! What every verb gets: the options before the verb, and the way to the daemon.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::client::Client;
use crate::config::Config;
use crate::connect::{DEFAULT_SOCKETS, Endpoint, TlsOptions};

/// The options before the verb.
#[derive(Debug, Default, Args)]
pub struct GlobalFlags {
    /// Where the configuration is [default: ~/.docker]
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Show the requests to the daemon
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// The daemon: unix://PATH, tcp://HOST:PORT or ssh://USER@HOST
    ///
    /// When it is not given, the environment variables SAMPAN_HOST and DOCKER_HOST
    /// are used, then /run/sampan.sock, then /var/run/docker.sock.
    #[arg(short = 'H', long, value_name = "HOST")]
    pub host: Option<String>,
    /// What to log: debug, info, warn, error or fatal
    #[arg(short, long, default_value = "info",
        value_parser = ["debug", "info", "warn", "error", "fatal"])]
    pub log_level: String,
    /// Speak TLS
    #[arg(long)]
    pub tls: bool,
    /// The authority that signed the daemon's certificate [default: ~/.docker/ca.pem]
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Our certificate [default: ~/.docker/cert.pem]
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Our private key [default: ~/.docker/key.pem]
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Speak TLS and check the daemon's certificate
    #[arg(long)]
    pub tlsverify: bool,
}

/// The command with its options, before it has met the daemon.
#[derive(Debug)]
pub struct App {
    flags: GlobalFlags,
    /// docker's configuration.
    pub config: Config,
}

impl App {
    /// Reads the configuration.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn new(flags: GlobalFlags) -> Result<Self> {
        let dir = flags.config.clone().unwrap_or_else(Config::default_dir);
        Ok(Self { config: Config::load(&dir)?, flags })
    }

    /// Whether requests are shown.
    #[must_use]
    pub fn is_debug(&self) -> bool {
        self.flags.debug || self.flags.log_level == "debug"
    }

    /// The way to the daemon.
    ///
    /// # Errors
    /// When the host is not understood or TLS files can't be read.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let named = |name: &str| std::env::var(name).ok().filter(|h| !h.is_empty());
        let host = self.flags.host.clone().or_else(|| named("SAMPAN_HOST"));
        match host.or_else(|| named("DOCKER_HOST")) {
            Some(host) => Endpoint::parse(&host, &self.tls()),
            None => {
                let found = DEFAULT_SOCKETS.iter().find(|p| std::path::Path::new(p).exists());
                Ok(Endpoint::Unix(PathBuf::from(found.unwrap_or(&DEFAULT_SOCKETS[0]))))
            }
        }
    }

    fn tls(&self) -> TlsOptions {
        let f = &self.flags;
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let verify = f.tlsverify || is_set("DOCKER_TLS_VERIFY");
        let named = f.tlscacert.is_some() || f.tlscert.is_some() || f.tlskey.is_some();
        let dir = std::env::var_os("DOCKER_CERT_PATH").filter(|v| !v.is_empty());
        let dir =
            dir.map_or_else(|| f.config.clone().unwrap_or_else(Config::default_dir), PathBuf::from);
        let file = |given: &Option<PathBuf>, name: &str| {
            given.clone().or_else(|| Some(dir.join(name)).filter(|p| p.exists()))
        };
        TlsOptions {
            enabled: f.tls || verify || named || is_set("DOCKER_TLS"),
            verify,
            ca: file(&f.tlscacert, "ca.pem"),
            cert: file(&f.tlscert, "cert.pem"),
            key: file(&f.tlskey, "key.pem"),
        }
    }

    /// The daemon.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(self.endpoint()?, self.is_debug()).await
    }
}
