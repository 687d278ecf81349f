//! Starts, stops and enters the dev cluster.

use std::{os::unix::process::CommandExt, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use highwater_e2e::devcluster::{Cluster, DAEMONS, ENTERED, inside};

/// A real Kubernetes on this machine, for tests and the demo. Needs root.
#[derive(Parser)]
struct Args {
    /// Which cluster of this checkout. Inside `enter`, the one that was entered.
    #[arg(long, env = ENTERED, default_value = "main")]
    name: String,
    /// The test CSI driver. Default: beside this program.
    #[arg(long)]
    csi_driver: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start it, unless it runs.
    Up,
    /// Stop it and leave nothing behind.
    Down,
    /// Stop and start it.
    Restart,
    /// Say what runs.
    Status,
    /// Print the path of the kubeconfig.
    Kubeconfig,
    /// Load images (docker-archive tars).
    LoadImage {
        /// The files.
        tars: Vec<PathBuf>,
    },
    /// Run a command in the cluster's network, with KUBECONFIG set and kubectl on the PATH.
    Enter {
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let beside = std::env::current_exe()?.with_file_name("highwater-test-csi-driver");
    let cluster = Cluster::new(&args.name, args.csi_driver.unwrap_or(beside));
    match args.command {
        Command::Up => cluster.up()?,
        Command::Down => cluster.down()?,
        Command::Restart => {
            cluster.down()?;
            cluster.up()?;
        }
        Command::Status => return Ok(status(&cluster)),
        Command::Kubeconfig => println!("{}", cluster.names.kubeconfig().display()),
        Command::LoadImage { tars } => tars.iter().try_for_each(|tar| cluster.load_image(tar))?,
        Command::Enter { command } => return enter(&cluster, &args.name, &command),
    }
    Ok(ExitCode::SUCCESS)
}

fn status(cluster: &Cluster) -> ExitCode {
    let stopped = cluster.stopped();
    for daemon in DAEMONS {
        println!(
            "{daemon:<26} {}",
            if stopped.contains(&daemon) {
                "stopped"
            } else {
                "running"
            }
        );
    }
    println!(
        "{:<26} {}",
        "kubeconfig",
        cluster.names.kubeconfig().display()
    );
    if stopped.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn enter(cluster: &Cluster, name: &str, command: &[String]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("a command is needed")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut inside = inside(&cluster.names, program);
    inside
        .args(args)
        .env("KUBECONFIG", cluster.names.kubeconfig())
        .env(ENTERED, name);
    inside.env("HIGHWATER_DEVCLUSTER", std::env::current_exe()?);
    inside.env(
        "PATH",
        format!("{}:{path}", cluster.names.toolchain.join("bin").display()),
    );
    Err(inside.exec()).with_context(|| format!("failed to run {program}"))
}
