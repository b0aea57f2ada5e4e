//! Nodes that find each other without seeds, by what neighbours say: over a bus in memory that also lies, and by real
//! multicast on loopback where the system lets it pass.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{Arc, Mutex},
    time::Duration,
};

use greylag_cluster::{
    Seams,
    seams::{Beacon, Neighbourhood, Neighbours, Notice},
};
use greylag_protocol::{ErrorCode, NodeId};
use tokio::sync::mpsc;

use crate::node::{Node, Site, Starting, assert_code, founding_sites, until};

/// Everybody hears everybody, and whatever else is said.
#[derive(Debug, Clone, Default)]
struct Bus(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    notices: Vec<Notice>,
    ears: Vec<mpsc::Sender<Notice>>,
}

impl Bus {
    fn say(&self, notice: Notice) {
        let mut said = self.0.lock().unwrap();
        said.notices.push(notice.clone());
        said.ears.retain(|ear| ear.try_send(notice.clone()).is_ok());
    }

    /// What a node says, under another name and with another address.
    fn lie(&self, like: usize, instance: &str, address: &str) {
        let Notice::Here { mut properties, .. } = self.0.lock().unwrap().notices[like].clone() else { panic!() };
        properties.iter_mut().find(|(key, _)| key == "addr").unwrap().1 = address.into();
        self.say(Notice::Here { instance: instance.into(), properties });
    }
}

impl Neighbourhood for Bus {
    fn enter(&self, beacon: Option<Beacon>) -> std::io::Result<Neighbours> {
        let (ear, heard) = mpsc::channel(64);
        let mut said = self.0.lock().unwrap();
        said.notices.iter().for_each(|notice| ear.try_send(notice.clone()).unwrap());
        said.ears.push(ear);
        drop(said);
        if let Some(Beacon { instance, properties, .. }) = beacon {
            let properties = properties.into_iter().map(|(key, value)| (key, value.into_bytes())).collect();
            self.say(Notice::Here { instance, properties });
        }
        Ok(Neighbours { heard, presence: Box::new(()) })
    }
}

/// Sites with one token and no seeds.
fn seedless(count: usize) -> Vec<Site> {
    let mut sites = founding_sites(count);
    for site in &mut sites {
        site.config.seeds.clear();
        site.config.discovery.mdns = true;
    }
    sites
}

fn start_on(bus: &Bus, site: &Site) -> Starting {
    let seams = Seams::real(site.dir.path().to_owned()).unwrap();
    site.start_on(Seams { neighbourhood: Arc::new(bus.clone()), ..seams })
}

fn same_mesh(nodes: &[Node]) {
    for node in nodes {
        assert_eq!(node.mesh.id(), nodes[0].mesh.id());
        until("everybody", || node.mesh.state().members.len() == nodes.len());
    }
}

#[test]
fn nodes_without_seeds_form_one_mesh_whatever_strangers_say_and_others_join_it() {
    let (bus, sites) = (Bus::default(), seedless(3));
    // One of another mesh that goes by the same name is there first, and waits for its own.
    let strangers = seedless(2);
    let stranger = start_on(&bus, &strangers[0]);
    until("it has said so", || !bus.0.lock().unwrap().notices.is_empty());
    bus.say(Notice::Here { instance: "noise".into(), properties: vec![("v".into(), vec![0xff; 200])] });
    bus.lie(0, "nobody", "127.0.0.1:9");
    bus.lie(0, "nowhere", "nowhere.invalid:9");
    bus.lie(0, "bad", "0.0.0.0:9");
    let starting: Vec<Starting> = sites.iter().map(|site| start_on(&bus, site)).collect();
    let mut nodes: Vec<Node> = starting.into_iter().map(Starting::settled).collect();
    same_mesh(&nodes);
    assert!(!stranger.is_finished(), "it is no part of it");

    let mut late = Site::new("late", "127.0.0.1:0".parse().unwrap());
    late.config.discovery.mdns = true;
    late.config.join_token = Some(nodes[0].token(1, Duration::from_secs(60)));
    nodes.push(start_on(&bus, &late).settled());
    same_mesh(&nodes);
    assert_eq!(nodes[3].id(), NodeId(4));
    // A token that is spent leads no further than with seeds.
    let mut spent = Site::new("spent", "127.0.0.1:0".parse().unwrap());
    spent.config = greylag_config::NodeConfig { name: "spent".into(), listen: spent.config.listen, ..late.config };
    assert_code(&start_on(&bus, &spent).refused(), ErrorCode::JoinTokenSpent);
    stranger.kill();
    nodes.into_iter().for_each(Node::shut_down);
}

#[test]
fn nobody_founds_a_mesh_for_having_found_nobody() {
    // Two that only join, and elsewhere one that is short of another.
    let (bus, elsewhere, mut sites) = (Bus::default(), Bus::default(), seedless(2));
    sites.iter_mut().for_each(|site| site.config.expect = 1);
    let mut starting: Vec<Starting> = sites.iter().map(|site| start_on(&bus, site)).collect();
    let short = seedless(2);
    starting.push(start_on(&elsewhere, &short[0]));
    // Longer than they look around before they would found one.
    std::thread::sleep(Duration::from_secs(6));
    assert!(starting.iter().all(|node| !node.is_finished()));
    starting.into_iter().for_each(Starting::kill);
}

/// Whether what is sent to the group on loopback arrives there.
fn multicast_passes() -> std::io::Result<()> {
    let (group, lo) = (Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::LOCALHOST);
    let ear = UdpSocket::bind((group, 0))?;
    ear.join_multicast_v4(&group, &lo)?;
    ear.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mouth = UdpSocket::bind((lo, 0))?;
    mouth.send_to(b"?", ear.local_addr()?)?;
    ear.recv(&mut [0; 1]).map(drop)
}

#[test]
fn nodes_find_each_other_by_real_multicast() {
    if let Err(error) = multicast_passes() {
        println!("skipped: multicast does not pass on loopback here ({error})");
        return;
    }
    let mut sites = seedless(3);
    // Others may run on this machine.
    let name = format!("mesh-{}", uuid::Uuid::new_v4());
    sites.iter_mut().for_each(|site| site.config.mesh = name.clone());
    let mut nodes: Vec<Node> = crate::node::form(&sites);
    println!("found_ms={}", nodes.iter().map(|node| node.took).max().unwrap().as_millis());
    same_mesh(&nodes);
    let mut late = Site::new("late", "127.0.0.1:0".parse().unwrap());
    (late.config.mesh, late.config.discovery.mdns) = (name, true);
    late.config.join_token = Some(nodes[1].token(1, Duration::from_secs(60)));
    nodes.push(late.run());
    println!("joined_ms={}", nodes[3].took.as_millis());
    same_mesh(&nodes);
    nodes.into_iter().for_each(Node::shut_down);
}
