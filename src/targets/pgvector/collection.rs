//! Tables as collections: what is there, what a table's comment says, making and describing one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::client::{Lease, wrong};
use super::sql::{literal, quoted};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Metric;
use crate::pipeline::{FieldType, IndexSettings, PgvectorIndex, PgvectorSettings, PgvectorType};
use crate::targets::types::*;

/// What a comment of regrow's begins with.
const PREFIX: &str = "regrow ";
/// The comment of a view that is a production name.
pub(super) const ALIAS: &str = "regrow production name";

/// The comment of a table: the marker, and what the catalog does not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    format: u32,
    /// Physical name, which stays while the table has a production name.
    pub(super) name: String,
    pub(super) metric: Metric,
    pub(super) index: IndexSettings,
    pub(super) payload_indexes: BTreeMap<String, FieldType>,
    pub(super) own: PgvectorSettings,
    /// The index was built.
    pub(super) indexed: bool,
    pub(super) marker: Marker,
}

impl Note {
    pub(super) fn new(spec: &CollectionSpec, own: PgvectorSettings) -> Self {
        Self {
            format: 1,
            name: spec.name.clone(),
            metric: spec.metric,
            index: spec.index.clone(),
            payload_indexes: spec.payload_indexes.clone(),
            own,
            indexed: false,
            marker: spec.marker.clone(),
        }
    }

    fn parse(comment: &str) -> Option<Self> {
        serde_json::from_str(comment.strip_prefix(PREFIX)?).ok()
    }

    /// COMMENT on the table.
    pub(super) fn comment(&self, relation: &str) -> Result<String> {
        let json = serde_json::to_string(self)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write a marker as JSON").because(e))?;
        Ok(format!("COMMENT ON TABLE {relation} IS {}", literal(&format!("{PREFIX}{json}"))))
    }
}

/// A table with vectors.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) oid: i64,
    /// The table's own name now.
    pub(super) table: String,
    pub(super) note: Option<Note>,
    pub(super) dimension: usize,
    pub(super) vector_type: PgvectorType,
    pub(super) partitioned: bool,
    /// Views of regrow's that point at it.
    views: Vec<String>,
}

impl Entry {
    /// Physical name.
    pub(super) fn name(&self) -> &str {
        self.note.as_ref().map_or(&self.table, |note| &note.name)
    }

    /// Production names.
    pub(super) fn aliases(&self) -> Vec<String> {
        let mut aliases = self.views.clone();
        if self.table != self.name() {
            aliases.push(self.table.clone());
        }
        aliases.sort_unstable();
        aliases
    }

    /// `schema.table`, quoted.
    pub(super) fn relation(&self, schema: &str) -> String {
        format!("{}.{}", quoted(schema), quoted(&self.table))
    }

    fn has(&self, name: &str) -> bool {
        self.name() == name || self.table == name || self.views.iter().any(|view| view == name)
    }
}

/// All tables with vectors in the schema, by name.
pub(super) async fn catalog(client: &Lease<'_>, schema: &str) -> Result<Vec<Entry>> {
    let rows = client
        .query(
            "SELECT DISTINCT ON (c.relname COLLATE \"C\") c.oid::int8, c.relname::text, obj_description(c.oid, 'pg_class'), \
             a.atttypmod, t.typname::text, c.relkind = 'p', \
             ARRAY(SELECT DISTINCT v.relname::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid \
             JOIN pg_class v ON v.oid = r.ev_class WHERE d.classid = 'pg_rewrite'::regclass \
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND v.relkind = 'v' \
             AND v.relnamespace = c.relnamespace AND obj_description(v.oid, 'pg_class') = $2) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             JOIN pg_type t ON t.oid = a.atttypid \
             WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND t.typname IN ('vector', 'halfvec') \
             ORDER BY c.relname COLLATE \"C\", a.attnum",
            &[&schema, &ALIAS],
        )
        .await
        .map_err(|e| wrong("listing tables", e))?;
    let mut entries: Vec<Entry> = rows
        .iter()
        .map(|row| Entry {
            oid: row.get(0),
            table: row.get(1),
            note: row.get::<_, Option<&str>>(2).and_then(Note::parse),
            dimension: usize::try_from(row.get::<_, i32>(3)).unwrap_or(0),
            vector_type: if row.get::<_, &str>(4) == "halfvec" { PgvectorType::Halfvec } else { PgvectorType::Vector },
            partitioned: row.get(5),
            views: row.get(6),
        })
        .collect();
    entries.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(entries)
}

/// The table of a physical or production name.
pub(super) async fn find(client: &Lease<'_>, schema: &str, name: &str) -> Result<Option<Entry>> {
    Ok(catalog(client, schema).await?.into_iter().find(|entry| entry.has(name)))
}

/// Keys of `own` that are known, and the others.
pub(super) fn own(own: &Map<String, Value>) -> Result<(PgvectorSettings, Vec<String>)> {
    const KNOWN: [&str; 9] =
        ["schema", "type", "index", "lists", "probes", "partitions", "maintenance_memory", "switch", "policies"];
    let (known, unknown): (Map<String, Value>, Map<String, Value>) =
        own.clone().into_iter().partition(|(key, _)| KNOWN.contains(&key.as_str()));
    let settings = serde_json::from_value(known.into()).map_err(|e| {
        Error::new(ErrorKind::Configuration, "a parameter of pgvector has a wrong value")
            .guidance("correct [target.pgvector] in the pipeline file: its keys override what the snapshot recorded")
            .because(e)
    })?;
    Ok((settings, unknown.into_iter().map(|(key, _)| key).collect()))
}

/// Refuses what no table of pgvector could serve.
pub(super) fn servable(spec: &CollectionSpec, own: &PgvectorSettings) -> Result<()> {
    let kind = own.vector_type.unwrap_or_default();
    let most = match kind {
        PgvectorType::Vector => 2000,
        PgvectorType::Halfvec => 4000,
    };
    if spec.dimension > most {
        let next = match kind {
            PgvectorType::Vector if spec.dimension <= 4000 => {
                "set target.pgvector.type = \"halfvec\", or embed with fewer dimensions"
            }
            _ => "embed with fewer dimensions (model.dimension), or choose another target",
        };
        return Err(Error::new(ErrorKind::Configuration, "pgvector cannot index so many dimensions")
            .with("dimension", spec.dimension)
            .with("most", most)
            .guidance(next));
    }
    let ranges = [
        ("m", spec.index.m, 2..=100, "target.index.m"),
        ("ef_construct", spec.index.ef_construct, 4..=1000, "target.index.ef_construct"),
    ];
    if own.index.unwrap_or_default() == PgvectorIndex::Hnsw {
        for (name, value, range, key) in ranges {
            if !range.contains(&value) {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    format!("pgvector takes {name} from {} to {}", range.start(), range.end()),
                )
                .with("key", key)
                .with("found", value)
                .guidance("correct it in the pipeline file"));
            }
        }
        if spec.index.ef_construct < 2 * spec.index.m {
            return Err(Error::new(ErrorKind::Configuration, "pgvector wants ef_construct to be at least twice m")
                .with("key", "target.index.ef_construct")
                .guidance("raise it, or lower target.index.m"));
        }
    }
    Ok(())
}

/// What makes a relation name of a collection's own that nothing else has.
pub(super) fn derived(instance: Uuid, what: &str) -> String {
    format!("rg_{}_{what}", instance.simple())
}

/// CREATE TABLE and what belongs to it, but rights.
pub(super) fn create(schema: &str, spec: &CollectionSpec, note: &Note) -> Result<String> {
    let relation = format!("{}.{}", quoted(schema), quoted(&spec.name));
    let kind = match note.own.vector_type.unwrap_or_default() {
        PgvectorType::Vector => "vector",
        PgvectorType::Halfvec => "halfvec",
    };
    let columns = format!(
        "id uuid NOT NULL, tenant text NOT NULL, embedding {kind}({}) NOT NULL, payload jsonb NOT NULL, exact text",
        spec.dimension
    );
    let mut sql = match note.own.partitions.unwrap_or(0) {
        0 => format!("CREATE UNLOGGED TABLE {relation} ({columns}, PRIMARY KEY (id));"),
        partitions => {
            let mut sql =
                format!("CREATE TABLE {relation} ({columns}, PRIMARY KEY (id, tenant)) PARTITION BY HASH (tenant);");
            for n in 0..partitions {
                let part = quoted(&derived(note.marker.instance, &format!("p{n}")));
                sql += &format!(
                    "CREATE UNLOGGED TABLE {}.{part} PARTITION OF {relation} FOR VALUES WITH (MODULUS {partitions}, REMAINDER {n});",
                    quoted(schema)
                );
            }
            sql
        }
    };
    sql += &note.comment(&relation)?;
    Ok(sql)
}

/// Roles with rights on a relation, its owner apart.
pub(super) async fn roles(client: &Lease<'_>, oids: &[i64]) -> Result<Vec<Role>> {
    let rows = client
        .query(
            "SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE r.rolname::text END, \
             array_agg(DISTINCT a.privilege_type ORDER BY a.privilege_type) \
             FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee \
             WHERE c.oid::int8 = ANY($1) AND a.grantee <> c.relowner GROUP BY 1 ORDER BY 1",
            &[&oids],
        )
        .await
        .map_err(|e| wrong("reading rights", e))?;
    let role = |row: &tokio_postgres::Row| {
        Some(Role { name: row.get::<_, Option<String>>(0)?, grants: row.get::<_, Vec<String>>(1) })
    };
    let mut roles: Vec<Role> = rows.iter().filter_map(role).collect();
    roles.sort_unstable();
    Ok(roles)
}

/// Policies of row-level security, as what follows CREATE POLICY name ON table.
async fn policies(client: &Lease<'_>, oid: i64) -> Result<BTreeMap<String, String>> {
    let rows = client
        .query(
            "SELECT p.polname::text, concat_ws(' ', CASE WHEN p.polpermissive THEN 'AS PERMISSIVE' ELSE 'AS RESTRICTIVE' END, \
             'FOR ' || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' \
             ELSE 'ALL' END, 'TO ' || (SELECT string_agg(CASE WHEN u = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(u)) END, ', ') \
             FROM unnest(p.polroles) u), 'USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', \
             'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') \
             FROM pg_policy p WHERE p.polrelid::int8 = $1 ORDER BY 1",
            &[&oid],
        )
        .await
        .map_err(|e| wrong("reading policies", e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// GRANT statements for roles that are there; and those that are not.
pub(super) async fn grants(client: &Lease<'_>, relation: &str, roles: &[Role]) -> Result<(Vec<String>, Vec<String>)> {
    let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    let rows = client
        .query("SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1)", &[&names])
        .await
        .map_err(|e| wrong("looking for roles", e))?;
    let there: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let (mut statements, mut missing) = (Vec::new(), Vec::new());
    for role in roles {
        // Words only: they come from a repository.
        let fine = |grant: &String| !grant.is_empty() && grant.bytes().all(|b| b.is_ascii_uppercase());
        let grants: Vec<String> = role.grants.iter().filter(|grant| fine(grant)).cloned().collect();
        if role.name != "PUBLIC" && !there.contains(&role.name.as_str()) {
            missing.push(role.name.clone());
        } else if !grants.is_empty() {
            let name = if role.name == "PUBLIC" { "PUBLIC".to_owned() } else { quoted(&role.name) };
            statements.push(format!("GRANT {} ON {relation} TO {name}", grants.join(", ")));
        }
    }
    Ok((statements, missing))
}

/// Everything about a table.
pub(super) async fn info(client: &Lease<'_>, schema: &str, entry: &Entry) -> Result<CollectionInfo> {
    let relation = entry.relation(schema);
    let counted = client
        .query_one(&format!("SELECT count(*) FROM {relation}"), &[])
        .await
        .map_err(|e| wrong("counting points", e))?;
    let mut payload_indexes = BTreeMap::new();
    let (mut own, mut tenants) = (PgvectorSettings::default(), None);
    if let Some(note) = &entry.note {
        payload_indexes = note.payload_indexes.clone();
        own = note.own.clone();
        if note.indexed {
            // What is really there, not what was asked for.
            let rows = client
                .query(
                    "SELECT obj_description(indexrelid, 'pg_class') FROM pg_index WHERE indrelid::int8 = $1 AND indisvalid",
                    &[&entry.oid],
                )
                .await
                .map_err(|e| wrong("reading indexes", e))?;
            let there: Vec<&str> = rows.iter().filter_map(|row| row.get::<_, Option<&str>>(0)).collect();
            payload_indexes.retain(|field, _| there.contains(&super::index::comment(field).as_str()));
        }
        let query = format!("SELECT count(*) FROM (SELECT DISTINCT tenant FROM {relation} WHERE tenant <> '') t");
        let row = client.query_one(&query, &[]).await.map_err(|e| wrong("counting tenants", e))?;
        tenants = u64::try_from(row.get::<_, i64>(0)).ok();
    }
    let views = client
        .query(
            "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = ANY($2)",
            &[&schema, &entry.views],
        )
        .await
        .map_err(|e| wrong("looking for views", e))?;
    let oids: Vec<i64> = views.iter().map(|row| row.get(0)).chain([entry.oid]).collect();
    own.vector_type = Some(entry.vector_type);
    own.policies = Some(policies(client, entry.oid).await?).filter(|policies| !policies.is_empty());
    let own = match serde_json::to_value(&own) {
        Ok(Value::Object(own)) => own.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    let kept = if entry.partitioned { TenantKeeping::Partition } else { TenantKeeping::Payload };
    Ok(CollectionInfo {
        name: entry.name().to_owned(),
        aliases: entry.aliases(),
        dimension: entry.dimension,
        metric: entry.note.as_ref().map_or(Metric::Cosine, |note| note.metric),
        index: entry.note.as_ref().map_or_else(IndexSettings::default, |note| note.index.clone()),
        payload_indexes,
        count: u64::try_from(counted.get::<_, i64>(0)).unwrap_or(0),
        tenants: Tenants { count: tenants, kept },
        roles: roles(client, &oids).await?,
        own,
        marker: entry.note.as_ref().map(|note| note.marker.clone()),
    })
}
