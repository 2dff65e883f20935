//! Creating, naming, promoting, deleting.

use super::Case;
use super::data::*;
use crate::error::ErrorKind;
use crate::model::Metric;
use crate::targets::types::*;

/// Created, described, listed, marked, deleted.
pub async fn a_collection_lives(case: &Case) {
    let target = case.target().await;
    assert_eq!(target.list().await.unwrap(), Vec::<String>::new());
    assert_eq!(target.describe("one").await.unwrap(), None);
    assert_eq!(target.open_owned("one").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(target.count("one", &Filter::default()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(target.scroll("one", None, 1).await.unwrap_err().kind(), ErrorKind::NotFound);

    let spec = spec("one", 8, Metric::Cosine);
    let owned = target.create(&spec).await.unwrap();
    assert_eq!((owned.name(), owned.marker()), ("one", &spec.marker));
    let info = target.describe("one").await.unwrap().unwrap();
    let expected = CollectionInfo {
        name: "one".to_owned(),
        aliases: Vec::new(),
        dimension: 8,
        metric: Metric::Cosine,
        index: spec.index.clone(),
        payload_indexes: spec.payload_indexes.clone(),
        count: 0,
        // The target's own affairs.
        tenants: info.tenants.clone(),
        roles: info.roles.clone(),
        own: info.own.clone(),
        marker: Some(spec.marker.clone()),
    };
    assert_eq!(info, expected);
    assert_eq!(target.open_owned("one").await.unwrap(), owned);

    let ready = Marker { state: CollectionState::Ready, ..spec.marker.clone() };
    let marked = target.mark(&owned, ready.clone()).await.unwrap();
    assert_eq!(marked.marker(), &ready);
    assert_eq!(target.open_owned("one").await.unwrap(), marked);
    assert_eq!(target.describe("one").await.unwrap().unwrap().marker, Some(ready));

    write_range(&*target, &marked, 0..5, 8).await;
    assert_eq!(target.describe("one").await.unwrap().unwrap().count, 5);
    target.create(&super::spec("another", 8, Metric::Dot)).await.unwrap();
    assert_eq!(target.list().await.unwrap(), ["another", "one"]);

    // The handle from before the mark is the same instance.
    target.delete(owned).await.unwrap();
    assert_eq!(target.list().await.unwrap(), ["another"]);
    assert_eq!(target.describe("one").await.unwrap(), None);
    assert_eq!(target.delete(marked).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A physical name is taken by a collection or an alias, and is free again after a delete.
pub async fn names_are_taken_once(case: &Case) {
    let target = case.target().await;
    let first = target.create(&spec("one", 4, Metric::Dot)).await.unwrap();
    let again = target.create(&spec("one", 4, Metric::Dot)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(target.open_owned("one").await.unwrap(), first, "the first one is untouched");

    target.promote("live", &first).await.unwrap();
    let alias = target.create(&spec("live", 4, Metric::Dot)).await.unwrap_err();
    assert_eq!(alias.kind(), ErrorKind::AlreadyExists);

    let two = filled(&*target, &spec("two", 4, Metric::Dot), 9).await;
    target.delete(two).await.unwrap();
    let empty = target.create(&spec("two", 6, Metric::Euclidean)).await.unwrap();
    let info = target.describe(empty.name()).await.unwrap().unwrap();
    assert_eq!((info.count, info.dimension, info.metric), (0, 6, Metric::Euclidean));
}

/// Nothing is created from a specification that cannot be served.
pub async fn bad_specifications_are_refused(case: &Case) {
    let target = case.target().await;
    let mut bad = vec![spec("", 4, Metric::Dot), spec("a\nb", 4, Metric::Dot), spec("zero", 0, Metric::Dot)];
    bad.push(spec(&"x".repeat(1000), 4, Metric::Dot));
    let mut no_links = spec("links", 4, Metric::Dot);
    no_links.index.m = 0;
    bad.push(no_links);
    let mut field = spec("field", 4, Metric::Dot);
    field.payload_indexes.insert("a..b".to_owned(), crate::pipeline::FieldType::Keyword);
    bad.push(field);
    for spec in bad {
        let error = target.create(&spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    }
    assert_eq!(target.list().await.unwrap(), Vec::<String>::new());
}

/// A handle to a collection that was deleted does not reach its successor of the same name.
pub async fn a_stale_handle_writes_nothing(case: &Case) {
    let target = case.target().await;
    let stale = filled(&*target, &spec("one", 4, Metric::Dot), 3).await;
    target.delete(stale.clone()).await.unwrap();
    let gone = target.write(&stale, vec![sample(0, 4)]).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);

    let fresh = target.create(&spec("one", 4, Metric::Dot)).await.unwrap();
    let errors = [
        target.write(&stale, vec![sample(0, 4)]).await.unwrap_err(),
        target.flush(&stale).await.unwrap_err(),
        target.mark(&stale, stale.marker().clone()).await.unwrap_err(),
        target.promote("live", &stale).await.unwrap_err(),
        target.delete(stale).await.unwrap_err(),
        // A marker of another instance is not written either.
        target.mark(&fresh, marker()).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Target, "{error}");
        assert!(!error.retryable());
    }
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 0);
    assert_eq!(target.open_owned("one").await.unwrap(), fresh);
    assert_eq!(target.describe("live").await.unwrap(), None);
}

/// Names are opaque: no name reaches another collection, or a file.
pub async fn names_may_be_any_text(case: &Case) {
    let target = case.target().await;
    let long = "ö".repeat(250);
    let mut names = vec![
        "..",
        ".",
        "a/b",
        "/etc/x",
        "a\\b",
        "CON",
        "Case",
        "case",
        "日本語",
        "grün",
        "a b",
        "%2e",
        "x.",
        "🌍",
        &long,
        "new-1",
        ".new-1",
        ".old-1",
        "a'b\"c",
    ];
    // What this target cannot have it refuses, and says what to do.
    let allowed = target.capabilities().names;
    for name in names.iter().filter(|name| !allowed.allow(name)) {
        let error = target.create(&spec(name, 4, Metric::Dot)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{name}: {error}");
        let fitted = allowed.fit(name);
        assert!(allowed.allow(&fitted), "{name} becomes {fitted}");
    }
    names.retain(|name| allowed.allow(name));
    names.sort_unstable();
    for (n, name) in names.iter().enumerate() {
        let owned = filled(&*target, &spec(name, 4, Metric::Dot), n as u64).await;
        target.flush(&owned).await.unwrap();
    }
    assert_eq!(target.list().await.unwrap(), names);
    if target.capabilities().persistent {
        drop(target);
        let target = case.reopened().await;
        assert_eq!(target.list().await.unwrap(), names);
    }
    let target = case.target().await;
    for (n, name) in names.iter().enumerate() {
        assert_eq!(target.count(name, &Filter::default()).await.unwrap(), n as u64, "{name}");
        let owned = target.open_owned(name).await.unwrap();
        let alias = format!("{name} ☂ live");
        if allowed.allow(&alias) {
            target.promote(&alias, &owned).await.unwrap();
            assert_eq!(target.describe(&alias).await.unwrap().unwrap().name, *name);
        }
    }
}

/// Promotion points every reading method at the collection, and says where the name pointed before.
pub async fn promotion_switches_all_reads(case: &Case) {
    let target = case.target().await;
    let one = filled(&*target, &spec("one", 4, Metric::Dot), 10).await;
    let two = filled(&*target, &spec("two", 4, Metric::Dot), 20).await;
    assert_eq!(target.promote("live", &one).await.unwrap(), None);
    for (owned, count) in [(&one, 10), (&two, 20)] {
        target.promote("live", owned).await.unwrap();
        let info = target.describe("live").await.unwrap().unwrap();
        assert_eq!((info.name.as_str(), info.count), (owned.name(), count));
        assert_eq!(info.aliases, ["live"]);
        assert_eq!(target.count("live", &Filter::default()).await.unwrap(), count);
        assert_eq!(scroll_all(&*target, "live", 7).await.len() as u64, count);
        let ids = [Sample::id(15)];
        assert_eq!(target.fetch("live", &ids).await.unwrap().len(), usize::from(count > 15));
        let found = target.search("live", &nearest(unit_vector(1, 4), 100, true)).await.unwrap();
        assert_eq!(found.len() as u64, count);
        assert_eq!(target.open_owned("live").await.unwrap(), *owned);
    }
    assert_eq!(target.describe("one").await.unwrap().unwrap().aliases, Vec::<String>::new());
    assert_eq!(target.promote("live", &one).await.unwrap().as_deref(), Some("two"));
    if target.capabilities().several_names {
        assert_eq!(target.promote("also", &one).await.unwrap(), None);
        assert_eq!(target.describe("one").await.unwrap().unwrap().aliases, ["also", "live"]);
    } else {
        // Not by taking the first name away.
        assert_eq!(target.promote("also", &one).await.unwrap_err().kind(), ErrorKind::Target);
        assert_eq!(target.describe("live").await.unwrap().unwrap().aliases, ["live"]);
        assert_eq!(target.describe("also").await.unwrap(), None);
    }
    assert_eq!(target.list().await.unwrap(), ["one", "two"], "a list holds physical names only");

    let three = filled(&*target, &spec("three", 4, Metric::Dot), 30).await;
    if target.capabilities().rename {
        let moved = target.promote("two", &three).await.unwrap().unwrap();
        assert_eq!(target.describe("two").await.unwrap().unwrap().name, "three");
        assert_eq!(target.describe(&moved).await.unwrap().unwrap().count, 20);
        assert_eq!(target.open_owned(&moved).await.unwrap().marker(), two.marker());
    } else {
        let error = target.promote("two", &three).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Target, "{error}");
        assert_eq!(target.describe("two").await.unwrap().unwrap().count, 20);
    }
    assert_eq!(target.promote("", &one).await.unwrap_err().kind(), ErrorKind::Configuration);
}

/// A collection that a production name points at is not deleted.
pub async fn production_is_not_deleted(case: &Case) {
    let target = case.target().await;
    let one = filled(&*target, &spec("one", 4, Metric::Dot), 3).await;
    let two = filled(&*target, &spec("two", 4, Metric::Dot), 4).await;
    target.promote("live", &one).await.unwrap();
    let error = target.delete(one.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Target, "{error}");
    assert_eq!(target.count("live", &Filter::default()).await.unwrap(), 3);
    target.promote("live", &two).await.unwrap();
    target.delete(one).await.unwrap();
    assert_eq!(target.list().await.unwrap(), ["two"]);
    assert_eq!(target.count("live", &Filter::default()).await.unwrap(), 4);
}

/// What was flushed is there after the target was closed and opened; nothing for targets in memory.
pub async fn everything_survives_reopening(case: &Case) {
    let target = case.target().await;
    if !target.capabilities().persistent {
        return;
    }
    let spec = spec("one", 16, Metric::Cosine);
    let owned = filled(&*target, &spec, 2500).await;
    let ready = Marker { state: CollectionState::Ready, ..spec.marker.clone() };
    let owned = target.mark(&owned, ready).await.unwrap();
    target.promote("live", &owned).await.unwrap();
    target.flush(&owned).await.unwrap();
    let before = (target.describe("live").await.unwrap(), scroll_all(&*target, "live", 999).await);
    drop(target);
    for indexed in [false, true] {
        let target = case.target().await;
        if indexed {
            let state = wait_for_index(&*target, &owned).await;
            assert_eq!(state.total, 2500);
        }
        drop(target);
        let target = case.reopened().await;
        assert_eq!(target.open_owned("live").await.unwrap(), owned);
        assert_eq!((target.describe("live").await.unwrap(), scroll_all(&*target, "live", 999).await), before);
        let found = target.search("live", &nearest(unit_vector(77, 16), 1, false)).await.unwrap();
        assert_eq!(found[0].id, Sample::id(77));
        let of_a = target.count("live", &Filter::tenant("a")).await.unwrap();
        assert_eq!(of_a, (0..2500).filter(|n| n % 3 == 0).count() as u64);
        assert_eq!(target.index_state(&owned).await.unwrap().done, indexed);
        // And it can be written to.
        target.write(&owned, vec![sample(5, 16)]).await.unwrap();
        assert_eq!(target.count("live", &Filter::default()).await.unwrap(), 2500);
    }
}

/// What answers says what it is, every time the same.
pub async fn the_server_says_what_it_is(case: &Case) {
    let target = case.target().await;
    let server = target.server().await.unwrap();
    assert!(!server.name.is_empty() && !server.version.is_empty(), "{server:?}");
    assert_eq!(target.server().await.unwrap(), server);
    assert!(!target.kind().is_empty());
    assert!(target.capabilities().metrics.contains(&Metric::Cosine));
}

/// The collection served before is kept, and promoting it is the way back; both keep their points.
pub async fn promotion_goes_back(case: &Case) {
    let target = case.target().await;
    let one = filled(&*target, &spec("one", 4, Metric::Dot), 10).await;
    let two = filled(&*target, &spec("two", 4, Metric::Dot), 20).await;
    target.promote("live", &one).await.unwrap();
    for _ in 0..2 {
        let before = target.promote("live", &two).await.unwrap().unwrap();
        assert_eq!(target.count("live", &Filter::default()).await.unwrap(), 20);
        let back = target.open_owned(&before).await.unwrap();
        assert_eq!(back.marker(), one.marker());
        assert_eq!(target.count(&before, &Filter::default()).await.unwrap(), 10);
        let replaced = target.promote("live", &back).await.unwrap().unwrap();
        assert_eq!(target.open_owned(&replaced).await.unwrap().marker(), two.marker());
        assert_eq!(target.count("live", &Filter::default()).await.unwrap(), 10);
    }
    // Promoting what is served already changes nothing.
    target.promote("live", &one).await.unwrap();
    assert_eq!(target.count("live", &Filter::default()).await.unwrap(), 10);
    assert_eq!(target.list().await.unwrap().len(), 2);
}

/// What `describe` says is enough to make the collection again.
pub async fn a_description_makes_the_same_again(case: &Case) {
    let target = case.target().await;
    let one = filled(&*target, &spec("one", 8, Metric::Cosine), 30).await;
    wait_for_index(&*target, &one).await;
    let first = target.describe("one").await.unwrap().unwrap();
    let again = CollectionSpec {
        dimension: first.dimension,
        metric: first.metric,
        index: first.index.clone(),
        payload_indexes: first.payload_indexes.clone(),
        own: first.own.clone(),
        roles: first.roles.clone(),
        ..spec("two", 8, Metric::Cosine)
    };
    assert_eq!(target.unsupported(&again).await.unwrap(), Vec::<String>::new(), "it said so itself");
    let two = filled(&*target, &again, 30).await;
    wait_for_index(&*target, &two).await;
    let second = target.describe("two").await.unwrap().unwrap();
    let expected = CollectionInfo { name: "two".to_owned(), marker: second.marker.clone(), ..first };
    assert_eq!(second, expected);

    // What it does not know is said, and does not stop it.
    let mut strange = spec("three", 8, Metric::Cosine);
    strange.own.insert("no_such_parameter".to_owned(), 7.into());
    if target.kind() != "memory" {
        let said = target.unsupported(&strange).await.unwrap();
        assert!(said.iter().any(|line| line.contains("no_such_parameter")), "{said:?}");
    }
    target.create(&strange).await.unwrap();
}

/// A collection of someone else is read, and neither written, marked, promoted over nor deleted; until it is adopted.
pub async fn what_others_made_is_left_alone(case: &Case) {
    let target = case.target().await;
    let theirs = spec("theirs", 4, Metric::Dot);
    if !case.create_foreign(&theirs).await {
        return;
    }
    assert_eq!(target.open_owned("theirs").await.unwrap_err().kind(), ErrorKind::Target);
    assert_eq!(target.describe("theirs").await.unwrap().unwrap().marker, None);
    assert_eq!(target.create(&theirs).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let ours = filled(&*target, &spec("ours", 4, Metric::Dot), 5).await;
    let forged = crate::targets::OwnedCollection::attest("theirs".to_owned(), ours.marker().clone());
    for error in [
        target.write(&forged, vec![sample(1, 4)]).await.unwrap_err(),
        target.mark(&forged, forged.marker().clone()).await.unwrap_err(),
        target.start_index(&forged).await.unwrap_err(),
        target.promote("live", &forged).await.unwrap_err(),
        target.delete(forged).await.unwrap_err(),
        target.promote("theirs", &ours).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Target, "{error}");
        assert!(!error.retryable());
    }
    assert_eq!(target.describe("theirs").await.unwrap().unwrap().name, "theirs");

    let marker = Marker { state: CollectionState::Ready, ..marker() };
    assert_eq!(target.adopt("absent", marker.clone()).await.unwrap_err().kind(), ErrorKind::NotFound);
    let adopted = target.adopt("theirs", marker.clone()).await.unwrap();
    assert_eq!((adopted.name(), adopted.marker()), ("theirs", &marker));
    assert_eq!(target.open_owned("theirs").await.unwrap(), adopted);
    assert_eq!(target.adopt("theirs", marker.clone()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    if target.capabilities().rename {
        let moved = target.promote("theirs", &ours).await.unwrap().unwrap();
        assert_eq!(target.open_owned(&moved).await.unwrap().marker(), &marker);
        assert_eq!(target.count("theirs", &Filter::default()).await.unwrap(), 5);
        let back = target.open_owned(&moved).await.unwrap();
        target.promote("theirs", &back).await.unwrap();
        assert_eq!(target.open_owned("theirs").await.unwrap().marker(), &marker);
        assert_eq!(target.count("theirs", &Filter::default()).await.unwrap(), 0);
    } else {
        assert_eq!(target.promote("theirs", &ours).await.unwrap_err().kind(), ErrorKind::Target);
        target.delete(adopted).await.unwrap();
    }
}

/// Whose model made the vectors is on the collection, so that another one is noticed before anything is asked.
pub async fn the_model_is_on_the_collection(case: &Case) {
    let target = case.target().await;
    for (name, model) in [("one", "first model"), ("two", "second model")] {
        let mut spec = spec(name, 4, Metric::Dot);
        spec.marker.model_fingerprint = crate::ids::Digest::of(model.as_bytes());
        target.create(&spec).await.unwrap();
        let info = target.describe(name).await.unwrap().unwrap();
        assert_eq!(info.marker, Some(spec.marker));
    }
}
