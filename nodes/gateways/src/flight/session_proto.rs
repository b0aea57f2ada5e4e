//! The session messages of Flight.proto, which arrow-flight does not generate: the bodies of the actions
//! `SetSessionOptions`, `GetSessionOptions` and `CloseSession`.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

pub const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
pub const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
pub const CLOSE_SESSION: &str = "CloseSession";

/// An option's value, as far as the door has use for it.
#[derive(Debug, Clone, PartialEq)]
pub enum OptionValue {
    /// Back to the default.
    Unset,
    Text(String),
    Whole(i64),
    /// A type that no option has.
    Other,
}

/// Why an option was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionFault {
    Name,
    Value,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    errors: HashMap<String, SetError>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetSessionOptionsRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CloseSessionResult {
    /// 1: closed.
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct SetError {
    /// 1: name not known, 2: value not possible.
    #[prost(int32, tag = "1")]
    value: i32,
}

#[derive(Clone, PartialEq, Message)]
struct SessionOptionValue {
    #[prost(oneof = "session_option_value::Kind", tags = "1, 2, 3, 4, 5")]
    kind: Option<session_option_value::Kind>,
}

mod session_option_value {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StringList {
        #[prost(string, repeated, tag = "1")]
        pub values: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(bool, tag = "2")]
        Bool(bool),
        #[prost(sfixed64, tag = "3")]
        Whole(i64),
        #[prost(double, tag = "4")]
        Real(f64),
        #[prost(message, tag = "5")]
        Texts(StringList),
    }
}

impl SessionOptionValue {
    fn read(self) -> OptionValue {
        match self.kind {
            None => OptionValue::Unset,
            Some(session_option_value::Kind::Text(text)) => OptionValue::Text(text),
            Some(session_option_value::Kind::Whole(whole)) => OptionValue::Whole(whole),
            Some(_) => OptionValue::Other,
        }
    }

    fn of(value: OptionValue) -> Self {
        Self {
            kind: match value {
                OptionValue::Text(text) => Some(session_option_value::Kind::Text(text)),
                OptionValue::Whole(whole) => Some(session_option_value::Kind::Whole(whole)),
                OptionValue::Unset | OptionValue::Other => None,
            },
        }
    }
}

impl SetSessionOptionsRequest {
    pub fn new(options: impl IntoIterator<Item = (String, OptionValue)>) -> Self {
        Self {
            session_options: options.into_iter().map(|(name, value)| (name, SessionOptionValue::of(value))).collect(),
        }
    }

    /// Options to set, by name.
    pub fn options(self) -> BTreeMap<String, OptionValue> {
        self.session_options.into_iter().map(|(name, value)| (name, value.read())).collect()
    }
}

impl SetSessionOptionsResult {
    pub fn new(faults: impl IntoIterator<Item = (String, OptionFault)>) -> Self {
        let code = |fault| if fault == OptionFault::Name { 1 } else { 2 };
        Self { errors: faults.into_iter().map(|(name, fault)| (name, SetError { value: code(fault) })).collect() }
    }

    /// Options that were not set, by name.
    pub fn faults(self) -> BTreeMap<String, OptionFault> {
        let fault = |error: SetError| if error.value == 1 { OptionFault::Name } else { OptionFault::Value };
        self.errors.into_iter().map(|(name, error)| (name, fault(error))).collect()
    }
}

impl GetSessionOptionsResult {
    pub fn new(options: impl IntoIterator<Item = (String, OptionValue)>) -> Self {
        Self {
            session_options: options.into_iter().map(|(name, value)| (name, SessionOptionValue::of(value))).collect(),
        }
    }

    pub fn options(self) -> BTreeMap<String, OptionValue> {
        self.session_options.into_iter().map(|(name, value)| (name, value.read())).collect()
    }
}

impl CloseSessionResult {
    pub fn closed() -> Self {
        Self { status: 1 }
    }
}
