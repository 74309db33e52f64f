//! `--qmp unix:PATH[,server=on][,wait=off]`.

use std::path::PathBuf;

use crate::config::{BadArgument, LONGEST_SOCKET_PATH as LONGEST};

/// Where a management socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketAddress {
    /// Its path.
    pub path: PathBuf,
}

impl std::str::FromStr for SocketAddress {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        let bad =
            |problem: String| BadArgument::new("--qmp", problem, "give unix:PATH[,server=on][,wait=off]");
        let rest = text.strip_prefix("unix:").ok_or_else(|| bad(format!("'{text}' is no UNIX socket")))?;
        // A comma in the path is written twice.
        let rest = rest.replace(",,", "\0");
        let mut parts = rest.split(',');
        let path = parts.next().unwrap_or_default().replace('\0', ",");
        if path.is_empty() || path.len() > LONGEST {
            return Err(bad(format!("the path '{path}' does not have 1 to {LONGEST} bytes")));
        }
        for part in parts {
            match part {
                "server" | "server=on" | "nowait" | "wait=off" => {}
                "server=off" => return Err(bad("'server=off': adjunct listens and does not connect".into())),
                "wait" | "wait=on" => {
                    return Err(bad("'wait=on': the guest does not wait for a client".into()));
                }
                other => return Err(bad(format!("'{other}' is no option"))),
            }
        }
        Ok(Self { path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| text.parse::<SocketAddress>();
        for (text, path) in [
            ("unix:/run/a", "/run/a"),
            ("unix:a,server=on,wait=off", "a"),
            ("unix:a,server,nowait", "a"),
            ("unix:a,,b,server=on", "a,b"),
        ] {
            assert_eq!(parse(text).unwrap().path, PathBuf::from(path), "{text}");
        }
        for (text, why) in [
            ("tcp:localhost:4444", "no UNIX socket"),
            ("unix:", "1 to 107 bytes"),
            (&format!("unix:{}", "x".repeat(108)), "1 to 107 bytes"),
            ("unix:a,server=off", "does not connect"),
            ("unix:a,wait=on", "does not wait"),
            ("unix:a,mode=7", "'mode=7' is no option"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("--qmp: ") && error.contains(why), "{error}");
        }
    }
}
