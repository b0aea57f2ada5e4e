//! Who is at a door: from what a call shows to one principal, the same way for every door.
//!
//! [`Authenticator`] takes the mesh's own bearer tokens, tokens of the issuers that are configured, API keys and client
//! certificates; how each is checked is in `bearer` and in `greylag_governance::identity`. [`HttpsKeys`] gets an issuer's
//! keys. What a principal may do is not decided here; which of the door's calls its credential is good for is each
//! door's to ask, by [`Need`].
//!
//! INVARIANT: a call that shows something that is not wholly valid names nobody, even if something else that it shows is.

mod authenticator;
mod header;
mod https;
mod need;

pub use authenticator::{Authenticator, AuthenticatorParts, KnownCredentials, PriorityRule};
pub(crate) use header::secret;
pub use https::HttpsKeys;
pub use need::Need;

use std::net::IpAddr;

/// What a call shows of its caller.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// Its `authorization` header, or what stands for one at this door: `Bearer <token or key>`, or `Basic` with the token
    /// or key as the password.
    pub authorization: Option<&'a str>,
    /// The other end of the connection itself. What proxies say of whom they stand for is not believed.
    pub from: IpAddr,
    /// DER of the certificate whose key the caller has proven to have, signed by an authority that the door trusts.
    pub certificate: Option<&'a [u8]>,
}
