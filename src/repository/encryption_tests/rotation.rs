//! Rotations of the keys, alone, at once and cut off.

use super::*;

#[tokio::test]
async fn names_are_keyed_and_stay_through_rotations() {
    let (store, repository) = made(&pass("p")).await;
    let digest = Digest::of(b"something that can be guessed");
    let name = repository.name(&digest);
    assert_ne!(name, digest);
    rotate_keys(&repository, &pass("p"), &[]).await.unwrap();
    assert_eq!(over(&store).unlock(&pass("p")).await.unwrap().name(&digest), name);
    assert_ne!(made(&pass("p")).await.1.name(&digest), name);
    assert_eq!(made(&Unlock::nothing()).await.1.name(&digest), digest);
}

#[tokio::test]
async fn a_rotation_that_is_cut_off_anywhere_loses_nothing() {
    let (mine, second, new) = (pass("mine"), raw_key(9), pass("new"));
    for cut in 0.. {
        assert!(cut < 20, "a rotation does not come to its end");
        let (store, repository) = with_old_data(&mine).await;
        add_keys(&repository, &mine, &[second.clone(), pass("leaver")]).await.unwrap();
        store.cut_after(Some(cut));
        let outcome = rotate_keys(&repository, &mine, &[second.clone(), new.clone()]).await;
        store.cut_after(None);
        // What is written by whoever opens it now is readable by them, and so is all that was before.
        let written = over(&store).unlock(&pass("mine")).await.unwrap();
        written.put_json("drills/new.json", &"drills/new.json").await.unwrap();
        reads_all(&store, &pass("mine"), &["drills/old.json", "drills/new.json"]).await;
        reads_all(&store, &second, &["drills/old.json"]).await;
        if let Ok(report) = outcome {
            reads_all(&store, &raw_key(9), &["drills/old.json", "drills/new.json"]).await;
            reads_all(&store, &pass("new"), &["drills/old.json", "drills/new.json"]).await;
            assert_eq!(kind(over(&store).unlock(&pass("leaver")).await), ErrorKind::KeyWrong);
            assert_eq!((report.added.len(), report.removed.len(), report.slots.len()), (3, 3, 3));
            assert!(report.slots.iter().all(|slot| slot.keys.len() == 2));
            assert!(cut > 5);
            break;
        }
        // Run again, it comes to the same end.
        let report = rotate_keys(&written, &pass("mine"), &[second.clone(), new.clone()]).await.unwrap();
        assert_eq!(report.slots.len(), 3, "cut after {cut}: {report:?}");
        for unlock in [&mine, &second, &new] {
            reads_all(&store, unlock, &["drills/old.json", "drills/new.json"]).await;
        }
        assert_eq!(kind(over(&store).unlock(&pass("leaver")).await), ErrorKind::KeyWrong);
    }
}

#[tokio::test]
async fn two_rotations_at_once_keep_both_keys() {
    let (store, first) = with_old_data(&pass("p")).await;
    let second = over(&store).unlock(&pass("p")).await.unwrap();
    let report = rotate_keys(&first, &pass("p"), &[]).await.unwrap();
    let first = over(&store).unlock(&pass("p")).await.unwrap();
    first.put_json("drills/first.json", &"drills/first.json").await.unwrap();
    // The second one opened the repository before the first began, and does not know its key.
    let other = rotate_keys(&second, &pass("p"), &[]).await.unwrap();
    assert!(other.removed.is_empty() && report.removed.len() == 1);
    assert_eq!(slot_names(&first).await.len(), 2);
    let both = over(&store).unlock(&pass("p")).await.unwrap();
    both.put_json("drills/both.json", &"drills/both.json").await.unwrap();
    reads_all(&store, &pass("p"), &["drills/old.json", "drills/first.json", "drills/both.json"]).await;
    // The next rotation brings them together.
    let report = rotate_keys(&both, &pass("p"), &[]).await.unwrap();
    assert_eq!((report.slots.len(), report.slots[0].keys.len()), (1, 4));
    reads_all(&store, &pass("p"), &["drills/old.json", "drills/first.json", "drills/both.json"]).await;
}

#[tokio::test]
async fn a_run_that_opened_before_a_rotation_can_finish_and_says_what_it_cannot_read() {
    let (store, repository) = with_old_data(&pass("p")).await;
    rotate_keys(&repository, &pass("p"), &[]).await.unwrap();
    repository.put_json("drills/late.json", &"drills/late.json").await.unwrap();
    reads_all(&store, &pass("p"), &["drills/late.json"]).await;
    // A slot made from old keys meanwhile opens what is old, and says why it does not open the rest.
    add_keys(&repository, &pass("p"), &[pass("late")]).await.unwrap();
    let newest = over(&store).unlock(&pass("p")).await.unwrap();
    newest.put_json("drills/new.json", &"drills/new.json").await.unwrap();
    let late = over(&store).unlock(&pass("late")).await.unwrap();
    assert_eq!(late.get_json::<String>("drills/old.json").await.unwrap(), "drills/old.json");
    assert_eq!(kind(late.get_json::<String>("drills/new.json").await), ErrorKind::KeyWrong);
    let states: Vec<_> =
        list_keys(over(&store), &pass("p")).await.unwrap().slots.iter().map(|slot| slot.state).collect();
    assert_eq!(states, [SlotState::Opens, SlotState::Outdated]);
}
