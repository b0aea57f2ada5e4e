//! Who a node is: its key, its certificate, the mesh's own keys, join tokens, and the files they are kept in.
//!
//! INVARIANT: what a node is known by is on disk before anybody hears of it.

pub mod authority;
pub mod certificate;
pub mod key;
pub(crate) mod keyring;
pub(crate) mod proof;
pub(crate) mod store;
pub mod token;
pub(crate) mod trust;

pub use authority::CertificateAuthority;
pub use key::NodeKey;
pub(crate) use keyring::Keyring;
pub(crate) use trust::Trust;
