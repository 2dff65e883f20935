//! Points.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::points_server::Points;
use qdrant_edge::{
    CountRequest, FacetRequest, FacetValue, NamedQuery, QueryEnum, ScrollRequest, SearchParams, SearchRequest,
};
use tonic::{Request, Response, Status};

use super::shard::Operation;
use super::{Double, Held, only, words};

type Answer<T> = Result<Response<T>, Status>;

/// Runs the engine where it may take its time.
async fn engine<R: Send + 'static>(work: impl FnOnce() -> Result<R, Status> + Send + 'static) -> Result<R, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?
}

/// Hands operations to shards, and waits if that is asked for.
async fn submit(held: &Held, operations: Vec<(usize, Operation)>, wait: bool) -> Answer<q::PointsOperationResponse> {
    let waiting: Vec<_> =
        operations.into_iter().filter_map(|(shard, operation)| held.shards[shard].submit(operation, wait)).collect();
    for receiver in waiting {
        receiver.await.map_err(|_| Status::internal("the collection was deleted"))??;
    }
    let status = if wait { q::UpdateStatus::Completed } else { q::UpdateStatus::Acknowledged };
    let result = Some(q::UpdateResult { operation_id: Some(0), status: status.into() });
    Ok(Response::new(q::PointsOperationResponse { result, ..q::PointsOperationResponse::default() }))
}

macro_rules! not_here {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        $(
            // As the trait's own macro makes it.
            #[allow(clippy::type_complexity, clippy::type_repetition_in_bounds)]
            fn $name<'a, 'b>(
                &'a self,
                _: Request<q::$request>,
            ) -> std::pin::Pin<Box<dyn Future<Output = Answer<q::$response>> + Send + 'b>>
            where
                'a: 'b,
                Self: 'b,
            {
                let what = stringify!($name);
                Box::pin(async move { Err(Status::unimplemented(format!("the double does not serve {what}"))) })
            }
        )*
    };
}

#[tonic::async_trait]
impl Points for Double {
    async fn upsert(&self, request: Request<q::UpsertPoints>) -> Answer<q::PointsOperationResponse> {
        let request = request.into_inner();
        let served = q::UpsertPoints {
            collection_name: request.collection_name.clone(),
            wait: request.wait,
            points: request.points.clone(),
            ..q::UpsertPoints::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        words::check(&request.points)?;
        let mut shards: BTreeMap<usize, Vec<q::PointStruct>> = BTreeMap::new();
        for point in request.points {
            let shard = held.shard_of(&words::id(point.id.as_ref())?);
            let number = held.shards.iter().position(|one| Arc::ptr_eq(one, shard)).unwrap();
            shards.entry(number).or_default().push(point);
        }
        let operations = shards.into_iter().map(|(shard, points)| {
            let upsert = q::UpsertPoints { points, ..q::UpsertPoints::default() };
            (shard, Operation { upsert: Some(upsert), ..Operation::default() })
        });
        submit(&held, operations.collect(), request.wait.unwrap_or(false)).await
    }

    async fn delete(&self, request: Request<q::DeletePoints>) -> Answer<q::PointsOperationResponse> {
        let request = request.into_inner();
        let served = q::DeletePoints {
            collection_name: request.collection_name.clone(),
            wait: request.wait,
            points: request.points.clone(),
            ..q::DeletePoints::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        let operation = Operation { delete: Some(request.clone()), ..Operation::default() };
        // A shard that has none of them deletes nothing.
        let operations = (0..held.shards.len()).map(|shard| (shard, operation.clone())).collect();
        submit(&held, operations, request.wait.unwrap_or(false)).await
    }

    async fn delete_payload(&self, request: Request<q::DeletePayloadPoints>) -> Answer<q::PointsOperationResponse> {
        let request = request.into_inner();
        let served = q::DeletePayloadPoints {
            collection_name: request.collection_name.clone(),
            wait: request.wait,
            keys: request.keys.clone(),
            points_selector: request.points_selector.clone(),
            ..q::DeletePayloadPoints::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        let operation = Operation { delete_payload: Some(request.clone()), ..Operation::default() };
        // By filter: to every shard.
        let operations = (0..held.shards.len()).map(|shard| (shard, operation.clone())).collect();
        submit(&held, operations, request.wait.unwrap_or(false)).await
    }

    async fn create_field_index(
        &self,
        request: Request<q::CreateFieldIndexCollection>,
    ) -> Answer<q::PointsOperationResponse> {
        let request = request.into_inner();
        let served = q::CreateFieldIndexCollection {
            collection_name: request.collection_name.clone(),
            wait: request.wait,
            field_name: request.field_name.clone(),
            field_type: request.field_type,
            field_index_params: request.field_index_params.clone(),
            ..q::CreateFieldIndexCollection::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        words::schema(&request)?;
        let path = words::path(&request.field_name)?.to_string();
        {
            let mut info = held.info();
            let kind = request.field_type().as_str_name().replace("FieldType", "");
            let told = q::PayloadSchemaInfo {
                data_type: q::PayloadSchemaType::from_str_name(&kind).unwrap().into(),
                params: request.field_index_params.clone(),
                points: Some(0),
            };
            info.payload_schema.insert(path, told);
            held.save(&info);
        }
        let operation = Operation { index: Some(request.clone()), ..Operation::default() };
        let operations = (0..held.shards.len()).map(|shard| (shard, operation.clone())).collect();
        submit(&held, operations, request.wait.unwrap_or(false)).await
    }

    async fn get(&self, request: Request<q::GetPoints>) -> Answer<q::GetResponse> {
        let request = request.into_inner();
        let served = q::GetPoints {
            collection_name: request.collection_name.clone(),
            ids: request.ids.clone(),
            with_payload: request.with_payload.clone(),
            with_vectors: request.with_vectors.clone(),
            ..q::GetPoints::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        let ids = request.ids.iter().map(|id| words::id(Some(id))).collect::<Result<Vec<_>, _>>()?;
        let payload = words::payload_wanted(request.with_payload.as_ref())?;
        let vectors = words::vectors_wanted(request.with_vectors.as_ref());
        let result = engine(move || {
            let mut found = Vec::new();
            for shard in &held.shards {
                let there = shard.engine().retrieve(&ids, Some(payload.into()), Some(vectors.clone()));
                for record in there.map_err(words::failed)? {
                    found.push(words::record_back(record)?);
                }
            }
            Ok(found)
        })
        .await?;
        Ok(Response::new(q::GetResponse { result, ..q::GetResponse::default() }))
    }

    async fn scroll(&self, request: Request<q::ScrollPoints>) -> Answer<q::ScrollResponse> {
        let request = request.into_inner();
        let served = q::ScrollPoints {
            collection_name: request.collection_name.clone(),
            filter: request.filter.clone(),
            offset: request.offset.clone(),
            limit: request.limit,
            with_payload: request.with_payload.clone(),
            with_vectors: request.with_vectors.clone(),
            ..q::ScrollPoints::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        let offset = request.offset.as_ref().map(|id| words::id(Some(id))).transpose()?;
        let limit = request.limit.unwrap_or(10) as usize;
        if limit == 0 {
            return Err(Status::invalid_argument(
                "Validation error in body: [limit: value 0 invalid, must be 1 or larger]",
            ));
        }
        let filter = words::maybe_filter(request.filter.as_ref())?;
        let payload = words::payload_wanted(request.with_payload.as_ref())?;
        let vectors = words::vectors_wanted(request.with_vectors.as_ref());
        let (result, next) = engine(move || {
            let mut all = BTreeMap::new();
            for shard in &held.shards {
                let request = ScrollRequest {
                    offset,
                    limit: Some(limit + 1),
                    filter: filter.clone(),
                    with_payload: Some(payload.into()),
                    with_vector: vectors.clone(),
                    order_by: None,
                };
                for record in shard.engine().scroll(request).map_err(words::failed)?.0 {
                    all.insert(record.id, record);
                }
            }
            let mut records = all.into_values();
            let page = records.by_ref().take(limit).map(words::record_back).collect::<Result<Vec<_>, _>>()?;
            Ok((page, records.next().map(|record| words::id_back(record.id))))
        })
        .await?;
        Ok(Response::new(q::ScrollResponse { result, next_page_offset: next, ..q::ScrollResponse::default() }))
    }

    async fn count(&self, request: Request<q::CountPoints>) -> Answer<q::CountResponse> {
        let request = request.into_inner();
        let served = q::CountPoints {
            collection_name: request.collection_name.clone(),
            filter: request.filter.clone(),
            exact: request.exact,
            ..q::CountPoints::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        let filter = words::maybe_filter(request.filter.as_ref())?;
        let exact = request.exact.unwrap_or(true);
        let count = engine(move || {
            let mut count = 0;
            for shard in &held.shards {
                let request = CountRequest { filter: filter.clone(), exact };
                count += shard.engine().count(request).map_err(words::failed)? as u64;
            }
            Ok(count)
        })
        .await?;
        Ok(Response::new(q::CountResponse { result: Some(q::CountResult { count }), ..q::CountResponse::default() }))
    }

    async fn query(&self, request: Request<q::QueryPoints>) -> Answer<q::QueryResponse> {
        let request = request.into_inner();
        let served = q::QueryPoints {
            collection_name: request.collection_name.clone(),
            query: request.query.clone(),
            using: request.using.clone(),
            filter: request.filter.clone(),
            params: request.params.clone(),
            limit: request.limit,
            with_payload: request.with_payload.clone(),
            ..q::QueryPoints::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        let Some(q::query::Variant::Nearest(q::VectorInput { variant: Some(q::vector_input::Variant::Dense(vector)) })) =
            request.query.and_then(|query| query.variant)
        else {
            return Err(Status::unimplemented("the double does not serve this query"));
        };
        let params = request.params.unwrap_or_default();
        let known = q::SearchParams { hnsw_ef: params.hnsw_ef, exact: params.exact, ..q::SearchParams::default() };
        only(&params, &known)?;
        let query = match request.using {
            None => NamedQuery::default_dense(vector.data),
            Some(name) => NamedQuery { query: vector.data.into(), using: Some(name.as_str().into()) },
        };
        let filter = words::maybe_filter(request.filter.as_ref())?;
        let payload = words::payload_wanted(request.with_payload.as_ref())?;
        let limit = usize::try_from(request.limit.unwrap_or(10)).unwrap();
        let result = engine(move || {
            let mut found = Vec::new();
            for shard in &held.shards {
                let request = SearchRequest {
                    query: QueryEnum::Nearest(query.clone()),
                    filter: filter.clone(),
                    params: Some(SearchParams {
                        hnsw_ef: params.hnsw_ef.map(|ef| usize::try_from(ef).unwrap()),
                        exact: params.exact.unwrap_or(false),
                        ..SearchParams::default()
                    }),
                    limit,
                    offset: 0,
                    with_payload: Some(payload.into()),
                    with_vector: None,
                    score_threshold: None,
                };
                found.extend(shard.engine().search(request).map_err(words::failed)?);
            }
            let far = held.is_euclidean();
            found.sort_by(|a, b| if far { a.score.total_cmp(&b.score) } else { b.score.total_cmp(&a.score) });
            found.truncate(limit);
            let told = found.into_iter().map(|point| q::ScoredPoint {
                id: Some(words::id_back(point.id)),
                payload: point.payload.map(|payload| words::object_back(payload.0)).unwrap_or_default(),
                score: point.score,
                ..q::ScoredPoint::default()
            });
            Ok(told.collect())
        })
        .await?;
        Ok(Response::new(q::QueryResponse { result, ..q::QueryResponse::default() }))
    }

    async fn facet(&self, request: Request<q::FacetCounts>) -> Answer<q::FacetResponse> {
        let request = request.into_inner();
        let served = q::FacetCounts {
            collection_name: request.collection_name.clone(),
            key: request.key.clone(),
            limit: request.limit,
            exact: request.exact,
            ..q::FacetCounts::default()
        };
        only(&request, &served)?;
        let held = self.held(&request.collection_name)?;
        let key = words::path(&request.key)?;
        let limit = usize::try_from(request.limit.unwrap_or(10)).unwrap();
        let counts = engine(move || {
            let mut counts: HashMap<String, u64> = HashMap::new();
            for shard in &held.shards {
                let request = FacetRequest { key: key.clone(), limit, filter: None, exact: true };
                for hit in shard.engine().facet(request).map_err(words::failed)?.hits {
                    let FacetValue::Keyword(text) = hit.value else {
                        return Err(Status::unimplemented("the double does not serve facets of other types"));
                    };
                    *counts.entry(text).or_default() += hit.count as u64;
                }
            }
            Ok(counts)
        })
        .await?;
        let hits = counts.into_iter().take(limit).map(|(text, count)| {
            let value = q::FacetValue { variant: Some(q::facet_value::Variant::StringValue(text)) };
            q::FacetHit { value: Some(value), count }
        });
        Ok(Response::new(q::FacetResponse { hits: hits.collect(), ..q::FacetResponse::default() }))
    }

    not_here! {
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search(SearchPoints) -> SearchResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        update_batch(UpdateBatchPoints) -> UpdateBatchResponse;
        query_batch(QueryBatchPoints) -> QueryBatchResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}

impl Held {
    fn is_euclidean(&self) -> bool {
        let info = self.info();
        let params = info.config.as_ref().and_then(|config| config.params.as_ref());
        match params.and_then(|params| params.vectors_config.as_ref()).and_then(|vectors| vectors.config.as_ref()) {
            Some(q::vectors_config::Config::Params(params)) => params.distance() == q::Distance::Euclid,
            Some(q::vectors_config::Config::ParamsMap(map)) => {
                map.map.values().any(|params| params.distance() == q::Distance::Euclid)
            }
            None => false,
        }
    }
}
