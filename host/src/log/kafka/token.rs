//! Tokens for `sasl.mechanisms=OAUTHBEARER`: read from a file that something else keeps fresh (a
//! projected service account, a sidecar). Called by every client when librdkafka wants a token:
//! before it connects, and when most of the last one's life is over.
//!
//! The file is named by `sasl.oauthbearer.config=token-file=PATH`; it holds a JSON Web Token. The
//! token is not verified here: the brokers do that.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde::Deserialize;

/// Largest token that is read, in bytes; brokers refuse far smaller ones.
const TOKEN_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("set sasl.oauthbearer.config to token-file=PATH in [kafka]: OAUTHBEARER needs a token")]
    NotConfigured,
    #[error("the token file '{path}' cannot be read: {source}")]
    Unreadable {
        path: String,
        source: std::io::Error,
    },
    #[error("'{path}' holds no json web token with 'exp' and 'sub': {why}")]
    NotAToken { path: String, why: String },
}

/// What a token says about itself (RFC 7519).
#[derive(Deserialize)]
struct Claims {
    /// When it expires, in seconds since the Unix epoch; may have a fraction.
    exp: f64,
    /// Whom it is about.
    sub: String,
}

/// Reads the token that the configuration names.
pub(super) fn read(config: Option<&str>) -> Result<OAuthToken, TokenError> {
    let path = config
        .unwrap_or_default()
        .split_whitespace()
        .find_map(|part| part.strip_prefix("token-file="))
        .ok_or(TokenError::NotConfigured)?;
    let unreadable = |source| TokenError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let length = Path::new(path).metadata().map_err(unreadable)?.len();
    let not_a_token = |why: String| TokenError::NotAToken {
        path: path.to_owned(),
        why,
    };
    if length > TOKEN_BYTES_MAX {
        return Err(not_a_token(format!("it has {length} bytes")));
    }
    let token = std::fs::read_to_string(path)
        .map_err(unreadable)?
        .trim()
        .to_owned();
    let claims = claims(&token).map_err(not_a_token)?;
    Ok(OAuthToken {
        token,
        principal_name: claims.sub,
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a time in milliseconds fits"
        )]
        lifetime_ms: (claims.exp * 1_000.0) as i64,
    })
}

fn claims(token: &str) -> Result<Claims, String> {
    let payload = token.split('.').nth(1).ok_or("it has no payload")?;
    let json = URL_SAFE_NO_PAD
        .decode(payload.trim_end_matches('='))
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_token_says_for_whom_and_how_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let text = token(r#"{"exp":4102444800.5,"sub":"foldhost","iat":1}"#);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        let config = format!("token-file={}", path.display());
        let read = read(Some(&config)).unwrap();
        assert_eq!(read.token, text);
        assert_eq!(
            (read.principal_name.as_str(), read.lifetime_ms),
            ("foldhost", 4_102_444_800_500)
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(matches!(read(None), Err(TokenError::NotConfigured)));
        assert!(matches!(
            read(Some("principal=a")),
            Err(TokenError::NotConfigured)
        ));
        let missing = read(Some("token-file=/no/such/file")).err().unwrap();
        assert!(missing.to_string().contains("/no/such/file"));
        for bad in ["", "abc", "a.b.c", &token("{}"), &token("[]")] {
            assert!(claims(bad).is_err(), "{bad}");
        }
    }
}
