//! The server's gRPC interface: one method for each call that is used, with its answer checked.

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::collections_client::CollectionsClient;
use qdrant_client::qdrant::points_client::PointsClient;
use qdrant_client::qdrant::qdrant_client::QdrantClient;
use tonic::Status;

use super::QdrantOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::targets::grpc::{Access, Grpc, Service};

/// Changes of a collection may wait for its optimizers, and a barrier for everything that was written before.
const SLOW: u32 = 10;

/// A client of one server.
#[derive(Debug)]
pub(super) struct Client {
    grpc: Grpc,
}

impl Client {
    /// [`ErrorKind::Configuration`] for a URL, certificate or key that cannot be used.
    pub(super) fn open(options: &QdrantOptions) -> Result<Self> {
        let key = options.api_key.as_ref().map(|key| ("api-key", key.reveal().to_owned()));
        let grpc = Grpc::open(Access {
            server: "Qdrant",
            url: &options.url,
            headers: key.into_iter().collect(),
            ca: options.ca.as_deref(),
            timeout: options.timeout,
            context: Vec::new(),
        })?;
        Ok(Self { grpc })
    }

    // Payloads have no limit of their own, so answers have none either; how many points are asked for bounds them.
    fn points(&self) -> PointsClient<Service> {
        PointsClient::new(self.grpc.service()).max_decoding_message_size(usize::MAX)
    }

    fn collections(&self) -> CollectionsClient<Service> {
        CollectionsClient::new(self.grpc.service()).max_decoding_message_size(usize::MAX)
    }

    async fn call<T>(&self, doing: &'static str, times: u32, call: impl Future<Output = Answer<T>>) -> Result<T> {
        self.grpc.within(doing, times, call).await.map(tonic::Response::into_inner)
    }

    fn strange(&self, doing: &'static str, message: &str) -> Error {
        self.grpc
            .error(ErrorKind::Target, message, doing)
            .guidance("check that `target.url` is the address of a Qdrant server, and its version")
    }

    /// The version, as the server says it.
    pub(super) async fn version(&self) -> Result<String> {
        let mut client = QdrantClient::new(self.grpc.service());
        let call = client.health_check(q::HealthCheckRequest {});
        Ok(self.call("asking for the server's version", 1, call).await?.version)
    }

    /// Names of all collections.
    pub(super) async fn list(&self) -> Result<Vec<String>> {
        let mut client = self.collections();
        let answer = self.call("listing collections", 1, client.list(q::ListCollectionsRequest {})).await?;
        Ok(answer.collections.into_iter().map(|collection| collection.name).collect())
    }

    /// Production names, and what they point at.
    pub(super) async fn aliases(&self) -> Result<Vec<q::AliasDescription>> {
        let mut client = self.collections();
        Ok(self.call("listing aliases", 1, client.list_aliases(q::ListAliasesRequest {})).await?.aliases)
    }

    /// What the server says about a collection, by its name or an alias.
    pub(super) async fn get(&self, name: &str) -> Result<Option<q::CollectionInfo>> {
        let doing = "looking at a collection";
        let mut client = self.collections();
        let request = q::GetCollectionInfoRequest { collection_name: name.to_owned() };
        let Some(answer) = absent(self.call(doing, 1, client.get(request)).await)? else { return Ok(None) };
        answer.result.map(Some).ok_or_else(|| self.strange(doing, "the server said nothing about the collection"))
    }

    pub(super) async fn create(&self, request: q::CreateCollection) -> Result<()> {
        let mut client = self.collections();
        self.changed("creating a collection", self.call("creating a collection", SLOW, client.create(request)).await?)
    }

    pub(super) async fn update(&self, request: q::UpdateCollection) -> Result<()> {
        let mut client = self.collections();
        self.changed("changing a collection", self.call("changing a collection", SLOW, client.update(request)).await?)
    }

    /// False when there was none.
    pub(super) async fn delete(&self, name: &str) -> Result<bool> {
        let mut client = self.collections();
        let request = q::DeleteCollection { collection_name: name.to_owned(), timeout: None };
        let answer = self.call("deleting a collection", SLOW, client.delete(request)).await;
        Ok(absent(answer)?.is_some_and(|answer| answer.result))
    }

    /// Several actions in one step.
    pub(super) async fn change_aliases(&self, actions: Vec<q::alias_operations::Action>) -> Result<()> {
        let doing = "changing aliases";
        let actions = actions.into_iter().map(|action| q::AliasOperations { action: Some(action) }).collect();
        let mut client = self.collections();
        let call = client.update_aliases(q::ChangeAliases { actions, timeout: None });
        self.changed(doing, self.call(doing, 1, call).await?)
    }

    fn changed(&self, doing: &'static str, answer: q::CollectionOperationResponse) -> Result<()> {
        if answer.result {
            return Ok(());
        }
        Err(self.grpc.error(ErrorKind::Target, "the server changed nothing", doing).transient())
    }

    pub(super) async fn index_field(&self, request: q::CreateFieldIndexCollection) -> Result<()> {
        let doing = "creating a payload index";
        let mut client = self.points();
        self.applied(doing, true, self.call(doing, SLOW, client.create_field_index(request)).await?)
    }

    /// Hands points over; they are in the server's log when this returns, and applied some time later.
    pub(super) async fn upsert(&self, request: q::UpsertPoints) -> Result<()> {
        let mut client = self.points();
        self.applied("writing", false, self.call("writing", SLOW, client.upsert(request)).await?)
    }

    /// Returns when the server has applied everything that it took before, in every shard: an operation by filter goes to all
    /// of them, and each applies its operations in order. It changes nothing: no point has this id.
    pub(super) async fn barrier(&self, collection: &str) -> Result<()> {
        let doing = "waiting until writes are applied";
        let nobody = q::HasIdCondition { has_id: vec![super::points::id_of(uuid::Uuid::nil())] };
        let filter = q::Filter { must: vec![condition(nobody)], ..q::Filter::default() };
        let request = q::DeletePayloadPoints {
            collection_name: collection.to_owned(),
            wait: Some(true),
            keys: vec!["regrow_barrier".to_owned()],
            points_selector: Some(q::PointsSelector {
                points_selector_one_of: Some(q::points_selector::PointsSelectorOneOf::Filter(filter)),
            }),
            ..q::DeletePayloadPoints::default()
        };
        let mut client = self.points();
        self.applied(doing, true, self.call(doing, SLOW, client.delete_payload(request)).await?)
    }

    fn applied(&self, doing: &'static str, wait: bool, answer: q::PointsOperationResponse) -> Result<()> {
        let status = answer.result.map(|result| result.status());
        match status {
            Some(q::UpdateStatus::Completed) => Ok(()),
            Some(q::UpdateStatus::Acknowledged) if !wait => Ok(()),
            Some(status) => Err(self
                .grpc
                .error(ErrorKind::Target, "the server did not finish what it was asked", doing)
                .with("status", status.as_str_name())
                .transient()),
            None => Err(self.strange(doing, "the server did not say what became of the request")),
        }
    }

    /// Exact.
    pub(super) async fn count(&self, collection: &str, filter: Option<q::Filter>) -> Result<u64> {
        let mut client = self.points();
        let request = q::CountPoints {
            collection_name: collection.to_owned(),
            filter,
            exact: Some(true),
            ..q::CountPoints::default()
        };
        let answer = self.call("counting", SLOW, client.count(request)).await?;
        let result = answer.result.ok_or_else(|| self.strange("counting", "the server did not count"))?;
        Ok(result.count)
    }

    pub(super) async fn retrieve(&self, request: q::GetPoints) -> Result<Vec<q::RetrievedPoint>> {
        let mut client = self.points();
        Ok(self.call("reading points", 1, client.get(request)).await?.result)
    }

    pub(super) async fn scroll(&self, request: q::ScrollPoints) -> Result<q::ScrollResponse> {
        let mut client = self.points();
        self.call("reading points", 1, client.scroll(request)).await
    }

    pub(super) async fn query(&self, request: q::QueryPoints) -> Result<Vec<q::ScoredPoint>> {
        let mut client = self.points();
        Ok(self.call("searching", 1, client.query(request)).await?.result)
    }

    /// How many values a field has; `None` when there are more than `most`, or the collection's limits do not let us ask.
    pub(super) async fn distinct(&self, collection: &str, field: &str, most: u64) -> Result<Option<u64>> {
        let mut client = self.points();
        let request = q::FacetCounts {
            collection_name: collection.to_owned(),
            key: field.to_owned(),
            limit: Some(most + 1),
            exact: Some(true),
            ..q::FacetCounts::default()
        };
        match self.call("counting tenants", SLOW, client.facet(request)).await {
            Ok(answer) => Ok(Some(answer.hits.len() as u64).filter(|hits| *hits <= most)),
            Err(e) if is_invalid(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

type Answer<T> = std::result::Result<tonic::Response<T>, Status>;

/// One condition on ids.
pub(super) fn condition(ids: q::HasIdCondition) -> q::Condition {
    q::Condition { condition_one_of: Some(q::condition::ConditionOneOf::HasId(ids)) }
}

/// Whether the request itself was at fault, as the server sees it.
pub(super) fn is_invalid(error: &Error) -> bool {
    error.context_value("status") == Some("InvalidArgument")
}

/// What is not there is no error.
pub(super) fn absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
