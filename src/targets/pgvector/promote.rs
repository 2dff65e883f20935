//! Production names: a view that is replaced, or tables that are renamed, in one transaction.

use super::client::{Pool, wrong};
use super::collection::{ALIAS, Entry, catalog, grants, roles};
use super::sql::{literal, quoted};
use crate::error::Result;
use crate::pipeline::PgvectorSwitch;
use crate::targets::checks;
use crate::targets::contract::OwnedCollection;

/// Points `alias` at the collection; returns the physical name of what it pointed at.
pub(super) async fn promote(
    pool: &Pool,
    alias: &str,
    held: &OwnedCollection,
    switch: PgvectorSwitch,
) -> Result<Option<String>> {
    let client = pool.lease().await?;
    let schema = &pool.schema;
    let doing = |e| wrong("promoting", e);
    // One promotion at a time in this schema, and nothing changes between looking and switching.
    client.batch_execute("BEGIN").await.map_err(doing)?;
    client
        .execute("SELECT pg_advisory_xact_lock(hashtext('regrow promote ' || $1))", &[&schema.as_str()])
        .await
        .map_err(doing)?;
    let entries = catalog(&client, schema).await?;
    let new = owned(&entries, held)?;
    let before = entries.iter().find(|e| e.aliases().iter().any(|a| a == alias));
    let physical = entries.iter().find(|e| e.name() == alias);
    let mut sql = String::new();
    let mut previous = before.map(|entry| entry.name().to_owned());
    if let Some(physical) = physical {
        if physical.note.is_none() || physical.oid == new.oid {
            return Err(checks::alias_is_physical(alias));
        }
        // Adopted: it gets a name of its own, in its marker too.
        let mut note = physical.note.clone().ok_or_else(|| checks::not_owned(alias))?;
        let short = &note.marker.instance.simple().to_string()[..8];
        let mut cut = alias.len().min(63 - 16);
        while !alias.is_char_boundary(cut) {
            cut -= 1;
        }
        note.name = format!("{}-before-{short}", &alias[..cut]);
        sql += &format!("ALTER TABLE {} RENAME TO {};", physical.relation(schema), quoted(&note.name));
        sql += &format!("{};", note.comment(&format!("{}.{}", quoted(schema), quoted(&note.name)))?);
        previous = Some(note.name);
    }
    if before.is_some_and(|entry| entry.oid == new.oid) {
        client.batch_execute("COMMIT").await.map_err(doing)?;
        client.done();
        return Ok(previous);
    }
    let rights = match before {
        Some(entry) => {
            let row = client
                .query_opt(
                    "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE n.nspname = $1 AND c.relname = $2",
                    &[&schema.as_str(), &alias],
                )
                .await
                .map_err(doing)?;
            let oids: Vec<i64> = row.iter().map(|row| row.get(0)).chain([entry.oid]).collect();
            roles(&client, &oids).await?
        }
        None => roles(&client, &[new.oid]).await?,
    };
    let name = format!("{}.{}", quoted(schema), quoted(alias));
    // A table that has a production name gives it back, and its own is free: nothing but that table may have it.
    if let Some(entry) = before.filter(|entry| entry.table == alias) {
        sql += &format!("ALTER TABLE {name} RENAME TO {};", quoted(entry.name()));
    } else if before.is_some() {
        sql += &format!("DROP VIEW {name};");
    }
    match switch {
        PgvectorSwitch::View => {
            // The view has the rights of who asks, so that row-level security of the table holds.
            let with = if pool.known().await?.number >= 150_000 { " WITH (security_invoker = true)" } else { "" };
            sql += &format!("CREATE VIEW {name}{with} AS SELECT * FROM {};", new.relation(schema));
            sql += &format!("COMMENT ON VIEW {name} IS {};", literal(ALIAS));
        }
        PgvectorSwitch::Rename => {
            sql += &format!("ALTER TABLE {} RENAME TO {};", new.relation(schema), quoted(alias));
        }
    }
    client.batch_execute(&sql).await.map_err(doing)?;
    let (mut statements, _) = grants(&client, &name, &rights).await?;
    if switch == PgvectorSwitch::View {
        // Who may read the view must be able to read what it shows.
        statements.extend(grants(&client, &new.relation(schema), &rights).await?.0);
    }
    for statement in statements {
        client.execute(&statement, &[]).await.map_err(doing)?;
    }
    client.batch_execute("COMMIT").await.map_err(doing)?;
    client.done();
    Ok(previous)
}

/// The table that is held, if it is still the same.
pub(super) fn owned<'a>(entries: &'a [Entry], held: &OwnedCollection) -> Result<&'a Entry> {
    let entry = entries.iter().find(|e| e.name() == held.name()).ok_or_else(|| checks::not_found(held.name()))?;
    let note = entry.note.as_ref().ok_or_else(|| checks::not_owned(held.name()))?;
    checks::same_instance(held.name(), held.marker().instance, note.marker.instance)?;
    Ok(entry)
}
