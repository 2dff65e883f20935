//! The conformance suite over the real databases: see `tests/servers/README.md`.

use regrow::targets::conformance::{self, Case};

use crate::chroma::Chroma;

macro_rules! conformance {
    ($($module:ident::$rule:ident),* $(,)?) => {
        mod conforms {
            use std::sync::Arc;

            use super::{Case, Chroma, conformance};

            mod chroma {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $rule() {
                        if let Some(open) = super::Chroma::running() {
                            super::conformance::$rule(&super::Case::new(super::Arc::new(open))).await;
                        }
                    }
                )*
            }
        }
    };
}

regrow::conformance_rules!(conformance);
