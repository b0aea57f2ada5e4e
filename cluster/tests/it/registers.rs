//! Registers over whole nodes: read after write at any node, counted once through the loss of a leader, and never read
//! from what one node alone knows.

use greylag_protocol::{
    ErrorCode,
    state::{Outcome, Register, RegisterExpect, RegisterOp},
};

use crate::node::{Node, assert_code, form, founding_sites, until};

fn read(node: &Node, name: &str) -> Option<Register> {
    node.block_on(node.mesh.read_register(name)).unwrap()
}

#[test]
fn what_is_written_at_one_node_is_read_at_every_other_at_once() {
    let nodes = form(&founding_sites(3));
    for round in 0..30u64 {
        let writer = &nodes[round as usize % 3];
        let op = RegisterOp::CompareAndSet { expect: RegisterExpect::Version(round), value: format!("v{round}") };
        let outcome = writer.block_on(writer.mesh.change_register("r", op, None)).unwrap();
        assert_eq!(outcome, Outcome::Register { version: round + 1, value: Some(format!("v{round}")) });
        for node in &nodes {
            assert_eq!(read(node, "r"), Some(Register { value: format!("v{round}"), version: round + 1 }));
        }
    }
    let stale = RegisterOp::CompareAndSet { expect: RegisterExpect::Version(3), value: "late".into() };
    let error = nodes[0].block_on(nodes[0].mesh.change_register("r", stale, None)).unwrap_err();
    assert_code(&error, ErrorCode::VersionConflict);
}

#[test]
fn counts_are_exact_though_the_leader_is_lost_and_nothing_stale_is_read_without_a_majority() {
    const EACH: usize = 60;
    let mut sites = founding_sites(3);
    sites.iter_mut().for_each(|site| site.config.timing.call_timeout_ms = 4_000);
    let mut nodes = form(&sites);
    until("a leader", || nodes[0].mesh.leader().0.is_some());
    let leader = nodes[0].mesh.leader().0.unwrap();
    let at = nodes.iter().position(|node| node.id() == leader).unwrap();
    let lost = nodes.remove(at);
    let (say, counted) = std::sync::mpsc::channel();
    for node in &nodes {
        let (mesh, say) = (node.mesh.clone(), say.clone());
        node.spawn(async move {
            // One that is not known to have been made is asked for again by the same name, until it is known.
            for _ in 0..EACH {
                let request = greylag_protocol::state::RegisterRequest {
                    id: uuid::Uuid::new_v4(),
                    after: mesh.state().registers.changes,
                };
                while let Err(error) = mesh.change_register("n", RegisterOp::Add { delta: 1 }, Some(request)).await {
                    assert_code(&error, ErrorCode::NoLeader);
                }
                say.send(()).unwrap();
            }
        });
    }
    for _ in 0..EACH / 2 {
        counted.recv_timeout(crate::node::PATIENCE).unwrap();
    }
    lost.kill();
    for _ in EACH / 2..2 * EACH {
        counted.recv_timeout(crate::node::PATIENCE).unwrap();
    }
    for node in &nodes {
        assert_eq!(read(node, "n").unwrap().value, (2 * EACH).to_string());
    }
    let alone = nodes.remove(0);
    nodes.into_iter().for_each(Node::kill);
    let error = alone.block_on(alone.mesh.read_register("n")).unwrap_err();
    assert_code(&error, ErrorCode::NoLeader);
}
