//! Sources: what of a declaration can be known to be wrong before an edge tries it.

use greylag_protocol::{ErrorCode, MeshError, Result, state::SourceSpec};

use crate::{NodeCtx, edge::port::SECRET_OPTIONS};

/// Edges that one source may ask for.
const REPLICAS_MAX: u32 = 64;

pub(super) fn check(ctx: &NodeCtx, spec: &SourceSpec) -> Result<()> {
    let invalid =
        |message: String| Err(MeshError::new(ErrorCode::InvalidResource, message).of_source(spec.name.clone()));
    if !ctx.connectors.kinds().contains(&spec.kind.as_str()) {
        let kinds = ctx.connectors.kinds().join("`, `");
        return invalid(format!("field `kind`: `{}` is none of `{kinds}`", spec.kind));
    }
    if !(1..=REPLICAS_MAX).contains(&spec.replicas) {
        return invalid(format!("field `replicas`: {} is not between 1 and {REPLICAS_MAX}", spec.replicas));
    }
    for name in SECRET_OPTIONS {
        let plain = |value: &String| !value.starts_with("env:") && !value.starts_with("file:");
        if spec.options.get(name).is_some_and(plain) {
            // The value itself is not repeated: it is a secret in the wrong place.
            return invalid(format!("option `{name}` must be a reference `env:NAME` or `file:/path`, not the value"));
        }
    }
    ctx.connectors.validate(spec)
}
