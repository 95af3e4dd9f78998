//! Who may ask.
//!
//! With a token, whoever knows it: as `Authorization: Bearer TOKEN`, or as the password of `Basic`, which is all that
//! WebDAV clients know; the user's name there does not matter. Without one only this machine is listened to, and a
//! request must name it: a web page elsewhere can point a name of its own at 127.0.0.1, and would otherwise read what
//! is served here through its visitor's browser.

use std::fmt;
use std::net::SocketAddr;

use headers::authorization::{Basic, Bearer};
use headers::{Authorization, HeaderMapExt};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Uri};

/// Fewest characters of a token: nobody counts how often one is guessed.
pub const SHORTEST_TOKEN: usize = 16;

/// A secret that lets its bearer in. Only a hash is kept: comparing hashes takes the same time wherever they differ.
#[derive(Clone)]
pub struct Token(blake3::Hash);

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It would be guessed.
    #[error("the token is too short: {SHORTEST_TOKEN} characters are needed")]
    Short,
    /// It cannot stand in a header.
    #[error("the token has characters other than ASCII letters, digits and signs")]
    Characters,
}

impl Token {
    /// Takes a token as it stands in a file: a line's end behind it is none of it.
    pub fn new(text: &[u8]) -> Result<Self, TokenError> {
        let text = text.trim_ascii_end();
        if !text.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Characters);
        }
        if text.len() < SHORTEST_TOKEN {
            return Err(TokenError::Short);
        }
        Ok(Self(blake3::hash(text)))
    }

    fn is(&self, given: &str) -> bool {
        // The comparison of these hashes takes the same time always.
        self.0 == blake3::hash(given.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why a request is turned away.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It has no token, or another.
    Token,
    /// It is meant for another host.
    Host,
}

/// Decides about requests.
#[derive(Debug)]
pub(super) struct Access {
    token: Option<Token>,
    /// Where is listened.
    address: SocketAddr,
}

impl Access {
    pub(super) fn new(token: Option<Token>, address: SocketAddr) -> Self {
        Self { token, address }
    }

    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
        match &self.token {
            Some(token) if Self::shows(token, headers) => Ok(()),
            Some(_) => Err(Denied::Token),
            None if self.is_meant(uri, headers) => Ok(()),
            None => Err(Denied::Host),
        }
    }

    fn shows(token: &Token, headers: &HeaderMap) -> bool {
        let bearer = headers.typed_get::<Authorization<Bearer>>();
        let basic = headers.typed_get::<Authorization<Basic>>();
        bearer.is_some_and(|a| token.is(a.token())) || basic.is_some_and(|a| token.is(a.password()))
    }

    /// Whether a request names this server. One that names nobody is from no browser, but may be from anybody.
    fn is_meant(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(hyper::header::HOST).iter();
        let host = hosts.next().and_then(|h| h.to_str().ok()?.parse::<Authority>().ok());
        let one = hosts.next().is_none();
        one && host.is_some_and(|h| self.is_own(&h)) && uri.authority().is_none_or(|a| self.is_own(a))
    }

    fn is_own(&self, authority: &Authority) -> bool {
        let host = authority.host().trim_matches(['[', ']']);
        let named = host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == self.address.ip());
        let user = authority.as_str().contains('@');
        named && !user && authority.port_u16().unwrap_or(80) == self.address.port()
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{AUTHORIZATION, HOST};

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn headers(pairs: &[(hyper::header::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), value.parse().unwrap_or_else(|_| unreachable!("{value}")));
        }
        headers
    }

    fn asks(
        access: &Access,
        uri: &'static str,
        pairs: &[(hyper::header::HeaderName, &str)],
    ) -> Result<(), Denied> {
        access.check(&Uri::from_static(uri), &headers(pairs))
    }

    #[test]
    fn a_token_is_taken_as_bearer_or_password_and_nothing_else_is() {
        let token = Token::new(format!("{TOKEN}\n").as_bytes()).ok();
        let access = Access::new(token, SocketAddr::from(([0, 0, 0, 0], 80)));
        // "any:0123456789abcdef", "0123456789abcdef:", "any:0123456789abcdeF"
        for (value, wanted) in [
            ("Bearer 0123456789abcdef", Ok(())),
            ("bearer 0123456789abcdef", Ok(())),
            ("Basic YW55OjAxMjM0NTY3ODlhYmNkZWY=", Ok(())),
            ("Basic MDEyMzQ1Njc4OWFiY2RlZjo=", Err(Denied::Token)),
            ("Basic YW55OjAxMjM0NTY3ODlhYmNkZUY=", Err(Denied::Token)),
            ("Basic !", Err(Denied::Token)),
            ("Bearer ", Err(Denied::Token)),
            ("Bearer 0123456789abcde", Err(Denied::Token)),
            ("Bearer 0123456789abcdef0", Err(Denied::Token)),
            ("0123456789abcdef", Err(Denied::Token)),
        ] {
            assert_eq!(asks(&access, "/", &[(AUTHORIZATION, value), (HOST, "any")]), wanted, "{value}");
        }
        assert_eq!(asks(&access, "/", &[(HOST, "127.0.0.1")]), Err(Denied::Token));
        assert_eq!(format!("{access:?}").matches(TOKEN).count(), 0);
    }

    #[test]
    fn tokens_are_long_and_printable() {
        assert!(matches!(Token::new(b"short"), Err(TokenError::Short)));
        assert!(matches!(Token::new(b""), Err(TokenError::Short)));
        assert!(matches!(Token::new(b"has a blank in the middle"), Err(TokenError::Characters)));
        assert!(matches!(Token::new("0123456789abcdeé".as_bytes()), Err(TokenError::Characters)));
        assert!(Token::new(b"0123456789abcdef\r\n").is_ok());
    }

    #[test]
    fn without_a_token_a_request_must_name_this_machine_and_port() {
        let access = Access::new(None, SocketAddr::from(([127, 0, 0, 1], 8080)));
        for host in ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080", "127.0.0.2:8080"] {
            assert_eq!(asks(&access, "/", &[(HOST, host)]), Ok(()), "{host}");
        }
        for host in [
            "127.0.0.1",
            "127.0.0.1:8081",
            "localhost",
            "localhost.evil.example:8080",
            "evil.example:8080",
            "localhost@evil.example:8080",
            "a@localhost:8080",
            "",
            "192.168.0.1:8080",
            "127.0.0.1.:8080",
        ] {
            assert_eq!(asks(&access, "/", &[(HOST, host)]), Err(Denied::Host), "{host}");
        }
        assert_eq!(asks(&access, "/", &[]), Err(Denied::Host));
        let own = (HOST, "127.0.0.1:8080");
        assert_eq!(asks(&access, "http://evil.example/", std::slice::from_ref(&own)), Err(Denied::Host));
        assert_eq!(asks(&access, "http://localhost:8080/", std::slice::from_ref(&own)), Ok(()));
        assert_eq!(asks(&access, "/", &[own.clone(), (HOST, "evil.example")]), Err(Denied::Host));
    }
}
