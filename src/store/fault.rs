//! What a store answered instead of what was asked for, and what that means.
//!
//! The client below `object_store` sees every answer ([`super::http`]); one that is an error becomes a [`Fault`], which
//! travels in the chain of sources of `object_store::Error` to [`crate::Error`]. It holds the store's code and its short
//! message, and nothing else of what the store repeats: no signature, no signed text, no query.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    List,
    Read,
    Write,
    Delete,
    /// Getting credentials from the machine's role or a token service.
    Credentials,
}

impl Operation {
    fn verb(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Credentials => "get credentials",
        }
    }
}

/// What is the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Region,
    Credentials,
    NoCredentials,
    Clock,
    NoBucket,
    Refused,
    Name,
    Tls,
    PlainOnTls,
    Permission,
    Locked,
    NoConditions,
    Addressing,
    Full,
    Throttled,
    Unavailable,
    Timeout,
    Interrupted,
    /// Another write of the same object was under way.
    Conflict,
    Rejected,
}

/// An answer that is an error, or that there was none.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) reason: Reason,
    pub(super) operation: Operation,
    /// Status; 0 without an answer.
    pub(super) status: u16,
    /// The store's code, or empty.
    pub(super) code: String,
    /// The store's or the client's own words, shortened.
    pub(super) message: String,
    /// Method and URL without its query.
    pub(super) request: String,
    /// The region that the store names.
    pub(super) region: Option<String>,
    /// By how many seconds the store's clock is ahead of this machine's.
    pub(super) ahead: Option<i64>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.request)?;
        match self.status {
            0 => {}
            status => write!(f, "{status} ")?,
        }
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => f.write_str("no further words"),
            ("", message) => f.write_str(message),
            (code, "") => f.write_str(code),
            (code, message) => write!(f, "{code}: {message}"),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// The fault inside an error of `object_store`.
    pub(super) fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(e) = next {
            if let Some(fault) = e.downcast_ref::<Self>() {
                return Some(fault);
            }
            next = e.source();
        }
        None
    }

    /// Whether the same request may succeed later.
    pub(super) fn transient(&self) -> bool {
        use Reason as R;
        matches!(
            self.reason,
            R::Refused | R::Name | R::Throttled | R::Unavailable | R::Timeout | R::Interrupted | R::Conflict
        )
    }

    /// Whether the store may have done what was asked all the same.
    pub(super) fn in_doubt(&self) -> bool {
        matches!(self.reason, Reason::Unavailable | Reason::Timeout | Reason::Interrupted)
    }

    /// What this means for the user.
    pub(super) fn into_error(self) -> Error {
        let verb = self.operation.verb();
        let (kind, message, next): (_, String, String) = match self.reason {
            Reason::Region => (
                ErrorKind::Configuration,
                "the bucket is in another region".into(),
                match &self.region {
                    Some(region) => format!("set region = \"{region}\" in the store's settings (or AWS_REGION)"),
                    None => "set the bucket's region in the store's settings (or AWS_REGION)".into(),
                },
            ),
            Reason::Credentials => (
                ErrorKind::Denied,
                "the store does not accept the credentials".into(),
                "check that key and secret belong together, to this store, and have not expired".into(),
            ),
            Reason::NoCredentials => (
                ErrorKind::Denied,
                "there are no credentials for the store".into(),
                "set the store's environment variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY), or its settings in the pipeline, such as access_key_id = \"env:NAME\"; or give the machine a role".into(),
            ),
            Reason::Clock => (
                ErrorKind::Configuration,
                "this machine's clock and the store's are too far apart".into(),
                "set this machine's clock (NTP), then run the same command again".into(),
            ),
            Reason::NoBucket => (
                ErrorKind::NotFound,
                "there is no such bucket or container".into(),
                "check its name in the URL, and the endpoint; regrow does not create buckets".into(),
            ),
            Reason::Refused => (
                ErrorKind::Storage,
                "the store cannot be reached".into(),
                "check the endpoint, its port, proxy and firewall; a store on your own machines may not be running".into(),
            ),
            Reason::Name => (
                ErrorKind::Storage,
                "the store's host name cannot be resolved".into(),
                "check the endpoint for typing errors, and the machine's DNS; with virtual_hosted_style_request the bucket is part of the name".into(),
            ),
            Reason::Tls => (
                ErrorKind::Configuration,
                "no secure connection to the store could be made".into(),
                "if the endpoint speaks plain HTTP, write it with http://; else check its certificate, and that this machine trusts who signed it".into(),
            ),
            Reason::PlainOnTls => (
                ErrorKind::Configuration,
                "the endpoint expects a secure connection".into(),
                "write the endpoint with https://".into(),
            ),
            Reason::Permission => (
                ErrorKind::Denied,
                format!("the store does not allow these credentials to {verb} here"),
                match self.operation {
                    // S3 hides from who may not list whether an object is there.
                    Operation::Read => "allow them to read and to list below this prefix: without the second, S3 refuses to read what is not there; `regrow doctor` tries each operation".into(),
                    _ => format!("allow them to {verb} below this prefix; `regrow doctor` tries each operation"),
                },
            ),
            Reason::Locked => (
                ErrorKind::Denied,
                "the object is locked: the store keeps it until its retention ends".into(),
                "nothing is lost; run the same command again when the retention has ended".into(),
            ),
            Reason::NoConditions => (
                ErrorKind::Configuration,
                "the store does not do what was asked: it may not support conditional writes".into(),
                "use a store with conditional writes (If-None-Match); most have them in their newer versions".into(),
            ),
            Reason::Addressing => (
                ErrorKind::Configuration,
                "the store reads another bucket out of the address than the URL names".into(),
                "set virtual_hosted_style_request = \"true\" where the bucket is part of the host name, and leave it out where it is part of the path".into(),
            ),
            Reason::Full => (
                ErrorKind::StorageFull,
                "no room left in the store".into(),
                "free some room and run the same command again: it continues where it stopped".into(),
            ),
            Reason::Throttled => (
                ErrorKind::Storage,
                "the store limits the rate of requests, and went on doing so".into(),
                "run the same command again later: it continues where it stopped; a smaller `concurrency` in the store's settings asks for less at once".into(),
            ),
            Reason::Unavailable => (
                ErrorKind::Storage,
                "the store failed".into(),
                "run the same command again: it continues where it stopped; the store's own status page or log says more".into(),
            ),
            Reason::Timeout => (
                ErrorKind::Storage,
                "the store did not answer in time".into(),
                "run the same command again: it continues where it stopped; `timeout` in the store's settings allows for more".into(),
            ),
            Reason::Interrupted => (
                ErrorKind::Storage,
                "the connection to the store broke".into(),
                "run the same command again: it continues where it stopped; if it never gets further, the endpoint may expect https:// in place of http://".into(),
            ),
            Reason::Conflict => (
                ErrorKind::Storage,
                "another write of the same object was under way".into(),
                "run the same command again".into(),
            ),
            Reason::Rejected => (
                ErrorKind::Storage,
                format!("the store refused to {verb}"),
                "the store's own words say why; `regrow doctor` tries each operation".into(),
            ),
        };
        let mut error = Error::new(kind, message).guidance(next);
        if !self.code.is_empty() {
            error = error.with("code", &self.code);
        }
        if let Some(region) = &self.region {
            error = error.with("region", region);
        }
        if self.reason == Reason::Clock
            && let Some(ahead) = self.ahead
        {
            error = error.with("store ahead by seconds", ahead);
        }
        if self.transient() {
            error = error.transient();
        }
        error.because(self)
    }
}

/// An answer that is not what was asked for.
pub(super) struct Answer<'a> {
    pub(super) operation: Operation,
    pub(super) status: u16,
    /// Code in a header, for answers without a body.
    pub(super) code: Option<String>,
    pub(super) region: Option<String>,
    pub(super) ahead: Option<i64>,
    pub(super) request: String,
    pub(super) body: &'a str,
    /// The bucket that was meant.
    pub(super) bucket: Option<&'a str>,
}

impl Answer<'_> {
    /// What the answer means; `None` where `object_store` tells it apart itself: missing, there already, not changed.
    pub(super) fn fault(self) -> Option<Fault> {
        let (code, message) = words(self.body);
        let code = if code.is_empty() { self.code.clone().unwrap_or_default() } else { code };
        let region = self.region.clone().or_else(|| element(self.body, "Region"));
        let reason = self.reason(&code, &message, region.as_deref())?;
        Some(Fault {
            reason,
            operation: self.operation,
            status: self.status,
            code,
            message,
            request: self.request,
            region: region.filter(|_| reason == Reason::Region),
            ahead: self.ahead,
        })
    }

    fn reason(&self, code: &str, message: &str, region: Option<&str>) -> Option<Reason> {
        use Reason as R;
        // Stores have no code of their own for an object that is kept: these words are all there is.
        let kept = ["object lock", "WORM", "retention", "legal hold"].iter().any(|w| message.contains(w));
        Some(match code {
            "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" | "InvalidRegion" => {
                R::Region
            }
            "AuthorizationHeaderMalformed" if region.is_some() => R::Region,
            "RequestTimeTooSkewed" | "RequestExpired" => R::Clock,
            "AuthorizationHeaderMalformed"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "ExpiredToken"
            | "TokenRefreshRequired"
            | "InvalidSecurity"
            | "AuthenticationFailed"
            | "InvalidAuthenticationInfo"
            | "NoAuthenticationInformation"
            | "AuthenticationRequired"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId" => {
                if self.skewed() {
                    R::Clock
                } else {
                    R::Credentials
                }
            }
            "NoSuchBucket" | "ContainerNotFound" | "NoSuchContainer" => {
                let named = element(self.body, "BucketName");
                match (&named, self.bucket) {
                    (Some(named), Some(meant)) if named != meant => R::Addressing,
                    _ => R::NoBucket,
                }
            }
            "SecondLevelDomainForbidden" | "VirtualHostDomainRequired" => R::Addressing,
            "ObjectLocked"
            | "BlobImmutableDueToPolicy"
            | "BlobImmutableDueToLegalHold"
            | "ObjectUnderActiveHold"
            | "RetentionPolicyNotMet" => R::Locked,
            "AccessDenied" | "InvalidRequest" if kept => R::Locked,
            "ConditionalRequestConflict" | "OperationAborted" => R::Conflict,
            "SlowDown"
            | "ServerBusy"
            | "RequestLimitExceeded"
            | "ThrottlingException"
            | "TooManyRequests"
            | "SlowDownRead"
            | "SlowDownWrite" => R::Throttled,
            "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage" => R::Full,
            "RequestTimeout" | "InternalError" | "IncompleteBody" | "BadDigest" => R::Unavailable,
            "NotImplemented" if self.operation == Operation::Write => R::NoConditions,
            _ => match self.status {
                // Told apart by object_store.
                304 | 404 | 409 | 412 | 416 if self.operation != Operation::Credentials => return None,
                _ if self.operation == Operation::Credentials && self.status < 500 => R::NoCredentials,
                301 | 302 | 307 | 308 => R::Region,
                400 if self.body.contains("HTTP request") && self.body.contains("HTTPS") => R::PlainOnTls,
                401 => R::Credentials,
                403 if self.skewed() => R::Clock,
                403 | 405 => R::Permission,
                429 => R::Throttled,
                501 if self.operation == Operation::Write => R::NoConditions,
                507 => R::Full,
                408 | 500.. => R::Unavailable,
                _ => R::Rejected,
            },
        })
    }

    /// Stores refuse requests that are more than a quarter of an hour off; some only say that the signature is wrong.
    fn skewed(&self) -> bool {
        self.ahead.is_some_and(|s| s.abs() > 14 * 60)
    }
}

/// Code and message of an error's body: XML as S3, GCS and Azure send it, JSON as token services do, or plain text.
fn words(body: &str) -> (String, String) {
    if let Some(code) = element(body, "Code") {
        return (short(&code), short(&element(body, "Message").unwrap_or_default()));
    }
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(body) {
        let error = value.get("error").unwrap_or(&value);
        let text = |v: Option<&serde_json::Value>| v.and_then(|v| v.as_str()).map(short).unwrap_or_default();
        return match error {
            serde_json::Value::String(code) => (short(code), text(value.get("error_description"))),
            error => (text(error.get("status").or_else(|| error.get("code"))), text(error.get("message"))),
        };
    }
    // A page for people: only its first words, and no markup.
    let plain = if body.trim_start().starts_with('<') { "" } else { body };
    (String::new(), short(plain))
}

/// The text of the first element of this name.
pub(super) fn element(body: &str, name: &str) -> Option<String> {
    let start = body.find(&format!("<{name}>"))? + name.len() + 2;
    let end = start + body[start..].find(&format!("</{name}>"))?;
    let text =
        body[start..end].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    let text = text.replace("&#39;", "'").replace("&#34;", "\"").replace("&amp;", "&");
    Some(text).filter(|t| !t.is_empty())
}

/// One line of at most 200 characters; Azure appends a request's id and time on further lines.
fn short(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(operation: Operation, status: u16, body: &str) -> Option<Error> {
        let answer = Answer {
            operation,
            status,
            code: None,
            region: None,
            ahead: Some(0),
            request: "GET http://host/b/x".to_owned(),
            body,
            bucket: Some("b"),
        };
        answer.fault().map(Fault::into_error)
    }

    fn xml(code: &str, rest: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>it said so</Message>{rest}</Error>")
    }

    #[test]
    fn each_answer_means_what_the_stores_document() {
        use ErrorKind as K;
        use Operation as O;
        for (operation, status, body, kind, transient, says) in [
            (
                O::List,
                400,
                xml("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
                K::Configuration,
                false,
                "region",
            ),
            (O::List, 301, String::new(), K::Configuration, false, "region"),
            (O::Read, 403, xml("InvalidAccessKeyId", ""), K::Denied, false, "credentials"),
            (
                O::Read,
                403,
                xml("SignatureDoesNotMatch", "<StringToSign>hunter2</StringToSign>"),
                K::Denied,
                false,
                "credentials",
            ),
            (O::Read, 401, String::new(), K::Denied, false, "credentials"),
            (O::Read, 403, xml("RequestTimeTooSkewed", ""), K::Configuration, false, "clock"),
            (O::List, 404, xml("NoSuchBucket", "<BucketName>b</BucketName>"), K::NotFound, false, "bucket"),
            (O::List, 404, xml("NoSuchBucket", "<BucketName>docs</BucketName>"), K::Configuration, false, "address"),
            (O::List, 404, xml("ContainerNotFound", ""), K::NotFound, false, "bucket"),
            (O::Write, 403, xml("AccessDenied", ""), K::Denied, false, "write"),
            (O::List, 403, xml("AccessDenied", ""), K::Denied, false, "list"),
            (O::Delete, 403, xml("AccessDenied", ""), K::Denied, false, "delete"),
            (O::Delete, 409, xml("BlobImmutableDueToPolicy", ""), K::Denied, false, "locked"),
            (O::Write, 501, xml("NotImplemented", ""), K::Configuration, false, "conditional"),
            (O::Write, 503, xml("SlowDown", ""), K::Storage, true, "rate"),
            (O::Write, 429, String::new(), K::Storage, true, "rate"),
            (O::Write, 500, xml("InternalError", ""), K::Storage, true, "failed"),
            (O::Write, 409, xml("ConditionalRequestConflict", ""), K::Storage, true, "another write"),
            (O::Write, 507, xml("XMinioStorageFull", ""), K::StorageFull, false, "room"),
            (
                O::Read,
                400,
                "Client sent an HTTP request to an HTTPS server.\n".to_owned(),
                K::Configuration,
                false,
                "secure",
            ),
            (O::Credentials, 404, String::new(), K::Denied, false, "no credentials"),
            (
                O::Credentials,
                400,
                r#"{"error":"invalid_grant","error_description":"no"}"#.to_owned(),
                K::Denied,
                false,
                "no credentials",
            ),
        ] {
            let e = answer(operation, status, &body).unwrap_or_else(|| panic!("{status} {body}"));
            let text = format!("{e} {e:?} {:?}", e.causes());
            assert_eq!((e.kind(), e.retryable()), (kind, transient), "{text}");
            assert!(e.message().contains(says), "{says}: {text}");
            assert!(e.next_step().is_some() && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_is_no_fault_stays_with_object_store() {
        for (status, body) in [
            (404, xml("NoSuchKey", "")),
            (412, xml("PreconditionFailed", "")),
            (409, xml("BlobAlreadyExists", "")),
            (304, String::new()),
            (416, String::new()),
        ] {
            assert!(answer(Operation::Read, status, &body).is_none(), "{status}");
        }
    }

    #[test]
    fn a_wrong_clock_explains_a_wrong_signature() {
        let mut given = Answer {
            operation: Operation::Read,
            status: 403,
            code: Some("AuthenticationFailed".to_owned()),
            region: None,
            ahead: Some(-3600),
            request: String::new(),
            body: "",
            bucket: None,
        };
        assert_eq!(given.reason("AuthenticationFailed", "", None), Some(Reason::Clock));
        given.ahead = Some(3);
        assert_eq!(given.reason("AuthenticationFailed", "", None), Some(Reason::Credentials));
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(body in "(<Code>|</Code>|<Message>|é|&amp;|[ -~]){0,40}") {
            let (code, message) = words(&body);
            assert!(code.chars().count() <= 200 && message.chars().count() <= 200);
        }
    }
}
