//! What a snapshot says that a restore from it cannot bring back.

use crate::pipeline::CaptureMode;

/// What a restore cannot bring back from this snapshot.
pub(super) fn cannot_restore(mode: CaptureMode, versioned: bool) -> Vec<String> {
    let documents = match mode {
        CaptureMode::Reference if versioned => Some(
            "the documents themselves: this snapshot refers to versions of objects, which the bucket must keep \
             (a lifecycle rule that removes old versions removes them)",
        ),
        CaptureMode::Reference => Some(
            "the documents themselves: this snapshot refers to the corpus, which must keep them unchanged (there are \
             no versions to go back to)",
        ),
        CaptureMode::Text => Some(
            "the documents' original bytes: only their extracted text, title, tenant, acl and metadata are captured",
        ),
        CaptureMode::Copy => None,
    };
    let attributes = "owners, permissions and links of the documents' files: only path, time and bytes are captured";
    let keys = "access keys and passwords of the target: they are never recorded";
    documents
        .into_iter()
        .chain((mode == CaptureMode::Copy).then_some(attributes))
        .chain([keys])
        .map(str::to_owned)
        .collect()
}
