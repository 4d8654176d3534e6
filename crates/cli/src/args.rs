//! The command line: its verbs, their groups, and what they call.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::app::{App, GlobalFlags};
use crate::out;
use crate::verb::inspect::{Inspect, InspectContainer, InspectOne, Kind};
use crate::verb::lifecycle::{Containers, Kill, Remove, Rename, Stop, Update};
use crate::verb::look::{Diff, Logs, Port, Top};
use crate::verb::transfer::{Export, Import, Load, Pull, Push, Save};
use crate::verb::{
    attach, cp, events, images, login, network, policy, prune, ps, run, stats, system, volume,
};

/// Run containers
///
/// Sampan runs containers and looks after their network, their data and their
/// availability. This command talks to its daemon, or to any other that speaks the
/// Docker Engine API, in docker's own words.
#[derive(Debug, Parser)]
#[command(
    name = "sampan",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    disable_version_flag = true
)]
pub struct Cli {
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    verb: Verb,
}

/// The verbs that need no group.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Manage containers
    #[command(subcommand)]
    Container(Box<Container>),
    /// Manage images
    #[command(subcommand)]
    Image(Image),
    #[command(subcommand)]
    Network(network::Network),
    #[command(subcommand)]
    Policy(policy::Policy),
    #[command(subcommand)]
    Volume(volume::Volume),
    /// Manage the daemon
    #[command(subcommand)]
    System(System),
    #[command(flatten)]
    OfContainers(Box<Common>),
    /// List containers
    Ps(ps::Ps),
    /// List images
    Images(images::Images),
    #[command(flatten)]
    OfImages(ImageCommon),
    /// Remove images
    Rmi(images::RemoveImages),
    Inspect(Inspect),
    Events(events::Events),
    Info(system::Info),
    Version(system::Version),
    Login(login::Login),
    Logout(login::Logout),
    Completion(Completion),
    /// Run the daemon (see sampan daemon --help)
    #[command(disable_help_flag = true)]
    Daemon {
        /// The daemon's options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<String>,
    },
}

/// Verbs that are the same with and without `container` before them.
#[derive(Debug, Subcommand)]
enum Common {
    Run(run::Run),
    Create(run::Create),
    Start(attach::Start),
    /// Stop running containers
    Stop(Stop),
    /// Stop containers and start them again
    Restart(Stop),
    Kill(Kill),
    /// Freeze all processes of containers
    Pause(Containers),
    /// Let frozen processes go on
    Unpause(Containers),
    Rename(Rename),
    Update(Update),
    /// Wait until containers end, and print their exit codes
    Wait(Containers),
    #[command(visible_alias = "remove")]
    Rm(Remove),
    Top(Top),
    Stats(stats::Stats),
    Logs(Logs),
    Attach(attach::Attach),
    Exec(attach::Exec),
    Cp(cp::Copy),
    Export(Export),
    Diff(Diff),
    Commit(images::Commit),
    Port(Port),
}

#[derive(Debug, Subcommand)]
enum Container {
    #[command(flatten)]
    Common(Box<Common>),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Ps),
    Inspect(InspectContainer),
    Prune(prune::PruneContainers),
}

/// Verbs that are the same with and without `image` before them.
#[derive(Debug, Subcommand)]
enum ImageCommon {
    Pull(Pull),
    Push(Push),
    Load(Load),
    Save(Save),
    Import(Import),
    Tag(images::Tag),
    History(images::History),
}

#[derive(Debug, Subcommand)]
enum Image {
    #[command(flatten)]
    Common(ImageCommon),
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::Images),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(images::RemoveImages),
    /// Show everything about images
    Inspect(InspectOne),
    Prune(prune::PruneImages),
}

#[derive(Debug, Subcommand)]
enum System {
    Df(system::Df),
    Prune(prune::PruneAll),
    Events(events::Events),
    Info(system::Info),
    /// Join standard input and output with the daemon (for ssh://)
    DialStdio,
    /// Write the man pages of all commands into a directory
    Man {
        /// The directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Print completions for a shell
#[derive(Debug, Args)]
struct Completion {
    /// The shell
    shell: Shell,
}

impl Cli {
    /// Does what the user asks for.
    pub async fn run(self) -> Result<()> {
        let app = App::new(self.global)?;
        match self.verb {
            Verb::Container(group) => group.run(&app).await,
            Verb::Image(group) => group.run(&app).await,
            Verb::Network(group) => group.run(&app).await,
            Verb::Policy(group) => group.run(&app).await,
            Verb::Volume(group) => group.run(&app).await,
            Verb::System(group) => group.run(&app).await,
            Verb::OfContainers(verb) => verb.run(&app).await,
            Verb::Ps(verb) => verb.run(&app).await,
            Verb::Images(verb) => verb.run(&app).await,
            Verb::OfImages(verb) => verb.run(&app).await,
            Verb::Rmi(verb) => verb.run(&app).await,
            Verb::Inspect(verb) => verb.run(&app).await,
            Verb::Events(verb) => verb.run(&app).await,
            Verb::Info(verb) => verb.run(&app).await,
            Verb::Version(verb) => verb.run(&app).await,
            Verb::Login(verb) => verb.run(app).await,
            Verb::Logout(verb) => verb.run(app),
            Verb::Completion(verb) => completion(verb.shell),
            Verb::Daemon { .. } => {
                bail!("write `sampan daemon` first: what stands before it is for the client")
            }
        }
    }
}

impl Common {
    async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Run(verb) => verb.run(app).await,
            Self::Create(verb) => verb.run(app).await,
            Self::Start(verb) => verb.run(app).await,
            Self::Stop(verb) => verb.run(app).await,
            Self::Restart(verb) => verb.restart(app).await,
            Self::Kill(verb) => verb.run(app).await,
            Self::Pause(verb) => verb.pause(app).await,
            Self::Unpause(verb) => verb.unpause(app).await,
            Self::Rename(verb) => verb.run(app).await,
            Self::Update(verb) => verb.run(app).await,
            Self::Wait(verb) => verb.wait(app).await,
            Self::Rm(verb) => verb.run(app).await,
            Self::Top(verb) => verb.run(app).await,
            Self::Stats(verb) => verb.run(app).await,
            Self::Logs(verb) => verb.run(app).await,
            Self::Attach(verb) => verb.run(app).await,
            Self::Exec(verb) => verb.run(app).await,
            Self::Cp(verb) => verb.run(app).await,
            Self::Export(verb) => verb.run(app).await,
            Self::Diff(verb) => verb.run(app).await,
            Self::Commit(verb) => verb.run(app).await,
            Self::Port(verb) => verb.run(app).await,
        }
    }
}

impl Container {
    async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Common(verb) => verb.run(app).await,
            Self::Ls(verb) => verb.run(app).await,
            Self::Inspect(verb) => verb.run(app).await,
            Self::Prune(verb) => verb.run(app).await,
        }
    }
}

impl ImageCommon {
    async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Pull(verb) => verb.run(app).await,
            Self::Push(verb) => verb.run(app).await,
            Self::Load(verb) => verb.run(app).await,
            Self::Save(verb) => verb.run(app).await,
            Self::Import(verb) => verb.run(app).await,
            Self::Tag(verb) => verb.run(app).await,
            Self::History(verb) => verb.run(app).await,
        }
    }
}

impl Image {
    async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Common(verb) => verb.run(app).await,
            Self::Ls(verb) => verb.run(app).await,
            Self::Rm(verb) => verb.run(app).await,
            Self::Inspect(verb) => verb.run(app, Kind::Image).await,
            Self::Prune(verb) => verb.run(app).await,
        }
    }
}

impl System {
    async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Df(verb) => verb.run(app).await,
            Self::Prune(verb) => verb.run(app).await,
            Self::Events(verb) => verb.run(app).await,
            Self::Info(verb) => verb.run(app).await,
            Self::DialStdio => system::dial_stdio(app).await,
            Self::Man { directory } => man(&directory),
        }
    }
}

fn completion(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "sampan", &mut script);
    out::text(&String::from_utf8_lossy(&script))
}

fn man(directory: &Path) -> Result<()> {
    let failed = || format!("write man pages to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(failed)?;
    clap_mangen::generate_to(command(), directory).with_context(failed)
}

/// The whole command line, for help, completions and man pages.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The same for parsing: every switch takes `=true` and `=false` as well, as
/// docker's do.
pub fn parser() -> clap::Command {
    with_values(command())
}

fn with_values(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        if !matches!(arg.get_action(), clap::ArgAction::SetTrue) {
            return arg;
        }
        arg.action(clap::ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_parser(clap::builder::BoolishValueParser::new())
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true)
    });
    command.mut_subcommands(with_values)
}
