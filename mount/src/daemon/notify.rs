//! Tells the service manager, where there is one that wants to know, how a mount comes along: systemd's `Type=notify`.
//!
//! Datagrams to the socket that `NOTIFY_SOCKET` names, which may be an abstract one. That nobody listens is no reason
//! to fail.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The mount is there.
pub fn ready() {
    // The process that was started, where it is another one, has gone by now.
    tell(&format!("READY=1\nMAINPID={}\nSTATUS=mounted", std::process::id()));
}

/// The mount is on its way out.
pub fn stopping() {
    tell("STOPPING=1");
}

/// What people should see of the service, on one line.
pub fn status(text: &str) {
    tell(&format!("STATUS={}", text.replace('\n', "; ")));
}

fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()) else { return };
    if let Err(e) = send(&socket, state) {
        tracing::warn!(%e, ?socket, "the service manager cannot be told");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> Vec<u8> {
        let mut bytes = [0; 100];
        let n = socket.recv(&mut bytes).unwrap();
        bytes[..n].to_vec()
    }

    #[test]
    fn a_socket_has_a_path_or_an_abstract_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(receive(&listener), b"READY=1");

        let name = format!("plakar-notify-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(receive(&listener), b"STOPPING=1");

        assert!(send(place.path().join("nobody").as_os_str(), "READY=1").is_err());
    }
}
