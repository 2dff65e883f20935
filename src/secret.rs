//! Secrets by reference: `env:NAME`, `file:PATH`, `cmd:COMMAND`. A pipeline file never holds one itself, and no
//! log, file or error shows one.

use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::workspace::Variables;

/// Where a secret is; serialises as the text it was written as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// An environment variable.
    Variable(String),
    /// The contents of a file, without the line end at its end; relative to the pipeline file.
    File(String),
    /// What a command prints, without the line end at its end; run by `sh` in the pipeline file's directory.
    Command(String),
}

impl FromStr for SecretRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            // The text itself may be the secret.
            Error::new(ErrorKind::Configuration, "this is not a reference to a secret")
                .guidance("write env:NAME, file:PATH or cmd:COMMAND; the secret itself must not stand here")
        };
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        if rest.is_empty() {
            return Err(wrong());
        }
        match kind {
            "env" => Ok(Self::Variable(rest.to_owned())),
            "file" => Ok(Self::File(rest.to_owned())),
            "cmd" => Ok(Self::Command(rest.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse().map_err(|e: Error| format!("{}: {}", e.message(), e.next_step().unwrap_or_default()))
    }
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> Self {
        reference.to_string()
    }
}

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Command(line) => write!(f, "cmd:{line}"),
        }
    }
}

/// A secret; shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret that is at hand.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretRef {
    /// Gets the secret. Blocks while a file is read or a command runs.
    ///
    /// # Errors
    /// `Configuration` when the variable is not set, the file cannot be read, the command fails, or nothing is there.
    pub fn resolve(&self, variables: &Variables, base: &Path) -> Result<Secret> {
        let failed = |why: String| {
            Error::new(ErrorKind::Configuration, "a secret could not be had").with("secret", self).because(why)
        };
        let text = zeroize::Zeroizing::new(match self {
            Self::Variable(name) => variables(name).ok_or_else(|| {
                failed("the environment variable is not set".to_owned()).guidance(format!("set {name} and run again"))
            })?,
            Self::File(path) => std::fs::read_to_string(base.join(path)).map_err(|e| failed(e.to_string()))?,
            Self::Command(line) => {
                let output = std::process::Command::new("sh")
                    .args(["-c", line])
                    .current_dir(base)
                    .stdin(Stdio::null())
                    .stderr(Stdio::inherit())
                    .output()
                    .map_err(|e| failed(e.to_string()))?;
                if !output.status.success() {
                    return Err(failed(format!("the command ended with {}", output.status)));
                }
                String::from_utf8(output.stdout).map_err(|_| failed("it printed no UTF-8 text".to_owned()))?
            }
        });
        let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        if text.is_empty() {
            return Err(failed("it is empty".to_owned()));
        }
        Ok(Secret::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, base: &Path) -> Result<Secret> {
        text.parse::<SecretRef>()?.resolve(&|name| (name == "KEY").then(|| "from the environment".to_owned()), base)
    }

    #[test]
    fn secrets_come_from_where_the_reference_says() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "from a file\r\n").unwrap();
        for (text, secret) in [
            ("env:KEY", "from the environment"),
            ("file:key", "from a file"),
            ("cmd:printf 'from %s\\n' 'a command'", "from a command"),
        ] {
            assert_eq!(resolve(text, directory.path()).unwrap().reveal(), secret, "{text}");
            assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
        }
        for text in ["env:OTHER", "file:none", "cmd:exit 3", "cmd:true"] {
            assert_eq!(resolve(text, directory.path()).unwrap_err().kind(), ErrorKind::Configuration, "{text}");
        }
    }

    #[test]
    fn a_secret_in_place_of_a_reference_is_refused_and_not_repeated() {
        for text in ["hunter2", "https:hunter2", "env:", ""] {
            let e = text.parse::<SecretRef>().unwrap_err();
            assert!(!format!("{e}{e:?}").contains("hunter2"), "{e}");
        }
        assert!(!format!("{:?}", Secret::new("hunter2")).contains("hunter2"));
    }
}
