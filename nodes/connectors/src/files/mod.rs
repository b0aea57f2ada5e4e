//! Being built.

use std::sync::Arc;

use greylag_actors::edge::port::{Connector, Options};
use greylag_protocol::{ErrorCode, MeshError, Result, state::SourceSpec};

pub struct FilesConnector;

impl FilesConnector {
    pub async fn open(spec: &SourceSpec, _options: Options) -> Result<Arc<dyn Connector>> {
        Err(MeshError::new(ErrorCode::InvalidResource, "kind `files` is not built yet").of_source(spec.name.clone()))
    }
}

pub fn validate(_spec: &SourceSpec) -> Result<()> {
    Ok(())
}
