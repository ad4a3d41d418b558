//! nginx as a reference: where to get it and how it is configured.
//!
//! It is given what a careful operator would give it for this traffic: one worker, kept-alive upstream connections, no
//! access log, and buffers large enough that no body ever goes to disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Debian packages that make a working nginx.
const PACKAGES: [&str; 2] = ["nginx", "nginx-common"];

/// Downloads nginx with the package manager and unpacks it into `dir`, without root and without installing anything.
///
/// # Errors
/// When there is no `apt-get` or `dpkg`, the package cannot be had, or the binary does not start.
pub(crate) fn fetch(dir: &Path) -> anyhow::Result<PathBuf> {
    let packages = dir.join("packages");
    std::fs::create_dir_all(&packages).with_context(|| format!("creating {}", packages.display()))?;
    succeed(
        Command::new("apt-get")
            .args(["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30", "download"])
            .args(PACKAGES)
            .current_dir(&packages),
    )
    .context("downloading the packages; `apt-get update` may be needed first")?;
    for file in std::fs::read_dir(&packages)?.flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            succeed(Command::new("dpkg").arg("-x").arg(&file).arg(dir))?;
        }
    }
    let binary = dir.join("usr/sbin/nginx").canonicalize().context("the packages hold no nginx")?;
    succeed(Command::new(&binary).arg("-v")).context("the unpacked nginx does not start")?;
    Ok(binary)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
    anyhow::ensure!(
        output.status.success(),
        "{:?} failed: {}",
        command.get_program(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A configuration that forwards everything from `listen` to `upstream` and keeps its files in `dir`.
pub(crate) fn configuration(listen: SocketAddr, upstream: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    // Started by root, nginx would change to a user that cannot reach the directory.
    let user = if nix::unistd::Uid::effective().is_root() { "user root;" } else { "" };
    format!(
        "daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 12288; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  client_max_body_size 16m;
  client_body_buffer_size 256k;
  proxy_buffer_size 16k;
  proxy_buffers 32 16k;
  proxy_max_temp_file_size 0;
  upstream bench {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {listen} backlog=4096;
    location / {{
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
    }}
  }}
}}
"
    )
}
