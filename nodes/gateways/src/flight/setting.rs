//! `SET greylag.option = value`, `RESET greylag.option`, `SHOW greylag.option`: the session's options as SQL. The door
//! itself answers these, with the session's cookie; everything else goes on to the coordinator.

use greylag_protocol::{ErrorCode, MeshError, Result, statement::SessionOptions};

use super::{
    session::{listed, set},
    session_proto::{OptionFault, OptionValue},
};

/// First part of the names of all options.
const PREFIX: &str = "greylag.";

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Setting {
    /// Nothing means the default.
    Set {
        name: String,
        value: OptionValue,
    },
    Show {
        name: String,
    },
}

impl Setting {
    /// `None` for any other statement. GL1001 for one that begins like a setting and cannot be read.
    pub(super) fn parse(sql: &str) -> Result<Option<Self>> {
        let text = sql.trim().trim_end_matches(';').trim();
        let Some((verb, rest)) = text.split_once(char::is_whitespace) else { return Ok(None) };
        let rest = rest.trim_start();
        let rest = match verb.to_ascii_lowercase().as_str() {
            "set" => strip_word(rest, "session"),
            "reset" | "show" => rest,
            _ => return Ok(None),
        };
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '.' || c == '_')).unwrap_or(rest.len());
        let (name, after) = (rest[..end].to_ascii_lowercase(), rest[end..].trim());
        if !name.starts_with(PREFIX) {
            return Ok(None);
        }
        let wrong = || MeshError::new(ErrorCode::Syntax, format!("`{text}` is not `SET {name} = value`"));
        match verb.to_ascii_lowercase().as_str() {
            "set" => {
                let value = after
                    .strip_prefix('=')
                    .or_else(|| (strip_word(after, "to") != after).then(|| strip_word(after, "to")));
                let value = value.map(str::trim).filter(|value| !value.is_empty()).ok_or_else(wrong)?;
                let value = literal(value).ok_or_else(wrong)?;
                Ok(Some(Self::Set { name, value }))
            }
            _ if !after.is_empty() => Err(wrong()),
            "reset" => Ok(Some(Self::Set { name, value: OptionValue::Unset })),
            _ => Ok(Some(Self::Show { name })),
        }
    }

    /// The options as they are then. GL6002 for a name or value that makes no sense.
    pub(super) fn apply(&self, options: &SessionOptions) -> Result<SessionOptions> {
        let mut changed = options.clone();
        if let Self::Set { name, value } = self {
            set(&mut changed, name, value).map_err(|fault| match fault {
                OptionFault::Name => unknown(name),
                OptionFault::Value => MeshError::new(ErrorCode::InvalidResource, format!("`{name}` cannot be that")),
            })?;
        }
        Ok(changed)
    }

    /// The query that answers `SHOW`. GL6002 for an option that there is not.
    pub(super) fn question(&self, options: &SessionOptions) -> Result<Option<String>> {
        let Self::Show { name } = self else { return Ok(None) };
        let all = listed(options);
        let value = match all.get(name).ok_or_else(|| unknown(name))? {
            OptionValue::Text(text) => text.clone(),
            OptionValue::Whole(whole) => whole.to_string(),
            OptionValue::Unset | OptionValue::Other => "default".to_owned(),
        };
        Ok(Some(format!("SELECT '{}' AS \"{name}\"", value.replace('\'', "''"))))
    }
}

fn unknown(name: &str) -> MeshError {
    let known: Vec<String> = listed(&SessionOptions::default()).into_keys().collect();
    MeshError::new(ErrorCode::InvalidResource, format!("there is no option `{name}`, but {}", known.join(", ")))
}

/// `text` without this word at its beginning; itself, if it does not begin with it.
fn strip_word<'a>(text: &'a str, word: &str) -> &'a str {
    match text.split_once(char::is_whitespace) {
        Some((first, rest)) if first.eq_ignore_ascii_case(word) => rest.trim_start(),
        _ => text,
    }
}

fn literal(text: &str) -> Option<OptionValue> {
    if let Some(quoted) = text.strip_prefix('\'') {
        let inside = quoted.strip_suffix('\'')?;
        return (!inside.contains('\'')).then(|| OptionValue::Text(inside.to_owned()));
    }
    if text.eq_ignore_ascii_case("default") {
        return Some(OptionValue::Unset);
    }
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    plain.then(|| OptionValue::Text(text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use greylag_protocol::statement::Delivery;

    use super::*;

    #[test]
    fn settings_are_read_however_they_are_written() {
        let spooled = Setting::Set { name: "greylag.delivery".into(), value: OptionValue::Text("spooled".into()) };
        for sql in [
            "SET greylag.delivery = 'spooled'",
            "set GREYLAG.delivery='spooled';",
            " Set Session greylag.delivery TO spooled ; ",
        ] {
            assert_eq!(Setting::parse(sql).unwrap().as_ref(), Some(&spooled), "{sql}");
        }
        let options = spooled.apply(&SessionOptions::default()).unwrap();
        assert_eq!(options.delivery, Delivery::Spooled);
        for sql in ["RESET greylag.delivery", "SET greylag.delivery = DEFAULT"] {
            let reset = Setting::parse(sql).unwrap().unwrap();
            assert_eq!(reset.apply(&options).unwrap(), SessionOptions::default(), "{sql}");
        }
        let show = Setting::parse("SHOW greylag.delivery").unwrap().unwrap();
        assert_eq!(show.question(&options).unwrap().unwrap(), "SELECT 'spooled' AS \"greylag.delivery\"");
        assert_eq!(show.apply(&options).unwrap(), options);
    }

    #[test]
    fn what_is_no_setting_is_left_and_what_makes_no_sense_is_refused() {
        for sql in ["SELECT 1", "SET x = 1", "SHOW TABLES", "set", "SETgreylag.delivery = 1", "SHOW greylagdelivery"] {
            assert_eq!(Setting::parse(sql).unwrap(), None, "{sql}");
        }
        for sql in [
            "SET greylag.delivery",
            "SET greylag.delivery =",
            "SET greylag.delivery = 'a' 'b'",
            "SET greylag.delivery = (SELECT 1)",
            "SHOW greylag.delivery now",
        ] {
            assert_eq!(Setting::parse(sql).unwrap_err().code, ErrorCode::Syntax, "{sql}");
        }
        for sql in ["SET greylag.delivery = fast", "SET greylag.timeout_ms = soon", "SET greylag.speed = 1"] {
            let error = Setting::parse(sql).unwrap().unwrap().apply(&SessionOptions::default()).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidResource, "{sql}");
        }
        let show = Setting::parse("SHOW greylag.speed").unwrap().unwrap();
        assert!(show.question(&SessionOptions::default()).unwrap_err().message.contains("greylag.delivery"));
    }
}
