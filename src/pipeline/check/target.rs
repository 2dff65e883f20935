//! `[target]`.

use super::Findings;
use crate::pipeline::settings::*;
use crate::targets::field;

impl Pipeline {
    pub(super) fn check_target(&self, f: &mut Findings) {
        let index = &self.target.index;
        f.require(index.m >= 2, "target.index.m", "a node needs at least 2 links", "16 is the default");
        f.require(
            index.ef_construct >= index.m,
            "target.index.ef_construct",
            "building needs at least as many candidates as links",
            "128 is the default",
        );
        f.require(index.ef_search > 0, "target.index.ef_search", "a search needs candidates", "128 is the default");
        for (name, kind) in &self.target.payload_indexes {
            let key = format!("target.payload_indexes.{name}");
            f.require(
                !name.is_empty() && name.split('.').all(|part| !part.is_empty()),
                key.clone(),
                "this is not a field",
                "name a payload field, such as metadata.year",
            );
            if [field::DOCUMENT_ID, field::TENANT, field::ACL].contains(&name.as_str()) && *kind != FieldType::Keyword {
                f.problem(key, "regrow filters this field by exact values", "make it a keyword, or leave it out");
            }
        }
    }
}
