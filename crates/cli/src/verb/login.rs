//! `login` and `logout`.

use std::io::Read;

use anyhow::{Result, bail};
use clap::Args;

use crate::app::App;
use crate::config::{Credentials, key_of};
use crate::out;
use crate::query::Query;
use crate::terminal::{Raw, stdin_is_terminal};

/// The registry of names without one.
const DEFAULT: &str = "docker.io";

/// Log in to a registry
#[derive(Debug, Args)]
pub struct Login {
    /// The password
    #[arg(short, long)]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
    /// The user's name
    #[arg(short, long)]
    username: Option<String>,
    /// The registry
    #[arg(value_name = "SERVER", default_value = DEFAULT, hide_default_value = true)]
    server: String,
}

impl Login {
    /// Asks the daemon to try the credentials, and remembers them.
    pub async fn run(self, mut app: App) -> Result<()> {
        if self.password_stdin && self.username.is_none() {
            bail!("the --password-stdin option requires --username");
        }
        if self.password.is_some() {
            out::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        }
        let known = app.config.credentials(&self.server)?;
        let username = match self.username {
            Some(name) => name,
            None if !stdin_is_terminal() => {
                bail!("cannot perform an interactive login from a non TTY device")
            }
            None => ask("Username: ", &known.username, false)?,
        };
        let password = match (self.password, self.password_stdin) {
            (Some(password), _) => password,
            (None, true) => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            (None, false) if !stdin_is_terminal() => {
                bail!("cannot perform an interactive login from a non TTY device")
            }
            (None, false) => ask("Password: ", "", true)?,
        };
        if username.is_empty() || password.is_empty() {
            bail!("username and password are required");
        }
        let mut credentials = Credentials { username, password, identity_token: String::new() };
        let client = app.client().await?;
        let body = credentials.body(&self.server);
        let answer = client.post("/auth", &Query::new(), Some(&body)).await?;
        if let Some(token) = answer["IdentityToken"].as_str().filter(|t| !t.is_empty()) {
            credentials.identity_token = token.to_owned();
            credentials.password = String::new();
        }
        if let Some(path) = app.config.store(&self.server, &credentials)? {
            out::note(&format!(
                "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
                 Configure a credential helper (credsStore) to keep them elsewhere.\n",
                path.display()
            ));
        }
        out::line(answer["Status"].as_str().unwrap_or("Login Succeeded"))
    }
}

fn ask(question: &str, default: &str, is_secret: bool) -> Result<String> {
    let hint = if default.is_empty() { String::new() } else { format!("({default}) ") };
    out::text(&format!("{question}{hint}"))?;
    let silent = if is_secret { Raw::silent() } else { None };
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if silent.is_some() {
        out::line("")?;
    }
    let answer = answer.trim();
    Ok(if answer.is_empty() { default.to_owned() } else { answer.to_owned() })
}

/// Log out from a registry
#[derive(Debug, Args)]
pub struct Logout {
    /// The registry
    #[arg(value_name = "SERVER", default_value = DEFAULT, hide_default_value = true)]
    server: String,
}

impl Logout {
    /// Forgets the credentials.
    pub fn run(self, mut app: App) -> Result<()> {
        let key = key_of(&self.server);
        if app.config.erase(&self.server)? {
            out::line(&format!("Removing login credentials for {key}"))
        } else {
            out::line(&format!("Not logged in to {key}"))
        }
    }
}
