//! What ails a node, told apart over whole nodes: one that stands still, one that is gone, one cut off in one direction,
//! one whose disk is full.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use greylag_cluster::{
    LinkState, Seams,
    health::Ailment,
    seams::{Disk, Probe, SocketFactory},
};
use greylag_protocol::{NodeId, state::MemberStatus};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller, udp};

use crate::node::{Node, Starting, form, founding_sites, until};

fn ailment(asked: &Node, of: NodeId) -> Ailment {
    asked.block_on(asked.mesh.health())[&of].ailment
}

fn all_well(nodes: &[&Node]) {
    let well = |asked: &Node| nodes.iter().all(|node| ailment(asked, node.id()) == Ailment::Ok);
    until("all are well", || nodes.iter().all(|node| well(node)));
}

#[test]
fn a_node_that_stands_still_is_told_from_one_that_is_gone() {
    let sites = founding_sites(3);
    let mut nodes = form(&sites);
    all_well(&nodes.iter().collect::<Vec<_>>());
    let (gone, still) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let (gone_id, still_id) = (gone.id(), still.id());
    let asked = &nodes[0];

    let looked_at = sites[1].config.listen;
    assert_eq!(asked.block_on(asked.mesh.seams().sockets.probe(looked_at)), Probe::Answers);
    // Its only thread sleeps: nothing is sent, nothing is read, nothing is closed, as under SIGSTOP.
    still.spawn(async { std::thread::sleep(Duration::from_secs(6)) });
    until("it is stalled", || ailment(asked, still_id) == Ailment::Stalled);
    until("and lost", || asked.link(still_id) == Some(LinkState::Lost));
    assert_eq!(ailment(asked, still_id), Ailment::Stalled, "also once it is lost");
    until("it is back", || asked.link(still_id) == Some(LinkState::Connected));
    let health = asked.block_on(asked.mesh.health()).remove(&still_id).unwrap();
    assert_eq!(health.ailment, Ailment::Stalled, "by its own word: {health:?}");
    assert!(health.detail.unwrap().contains("stood still"));

    gone.kill();
    until("it is down", || asked.status(gone_id) == Some(MemberStatus::Down));
    let health = asked.block_on(asked.mesh.health()).remove(&gone_id).unwrap();
    assert_eq!(health.ailment, Ailment::Unreachable);
    assert_eq!(health.detail.as_deref(), Some("nothing listens at its address"));
}

/// Sockets that drop what is sent to some addresses.
#[derive(Debug, Clone, Default)]
struct Cut(Arc<Mutex<BTreeSet<SocketAddr>>>);

#[derive(Debug)]
struct CutSockets {
    real: Arc<dyn SocketFactory>,
    cut: Cut,
}

#[derive(Debug)]
struct CutSocket {
    real: Arc<dyn AsyncUdpSocket>,
    cut: Cut,
}

impl Cut {
    fn drops(&self, to: SocketAddr) -> bool {
        self.0.lock().unwrap().contains(&to)
    }
}

#[async_trait::async_trait]
impl SocketFactory for CutSockets {
    async fn bind(&self, listen: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(CutSocket { real: self.real.bind(listen).await?, cut: self.cut.clone() }))
    }
    fn runtime(&self) -> Arc<dyn Runtime> {
        self.real.runtime()
    }
    async fn probe(&self, address: SocketAddr) -> Probe {
        if self.cut.drops(address) { Probe::Nothing } else { self.real.probe(address).await }
    }
}

impl AsyncUdpSocket for CutSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.real.clone().create_io_poller()
    }
    fn try_send(&self, transmit: &udp::Transmit<'_>) -> io::Result<()> {
        if self.cut.drops(transmit.destination) { Ok(()) } else { self.real.try_send(transmit) }
    }
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        meta: &mut [udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.real.poll_recv(cx, bufs, meta)
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.real.local_addr()
    }
}

#[test]
fn a_partition_in_one_direction_is_seen_by_everybody_and_is_over_when_it_is() {
    let sites = founding_sites(3);
    let cuts: Vec<Cut> = sites.iter().map(|_| Cut::default()).collect();
    let starting = sites.iter().zip(&cuts).map(|(site, cut)| {
        let mut seams = Seams::real(site.dir.path().to_owned()).unwrap();
        seams.sockets = Arc::new(CutSockets { real: seams.sockets, cut: cut.clone() });
        site.start_on(seams)
    });
    let starting: Vec<Starting> = starting.collect();
    let nodes: Vec<Node> = starting.into_iter().map(Starting::settled).collect();
    let all: Vec<&Node> = nodes.iter().collect();
    all_well(&all);

    // What the first sends to the last is lost; what the last sends to the first arrives.
    cuts[0].0.lock().unwrap().insert(sites[2].config.listen);
    for asked in &all {
        until("both ends are told of", || [0, 2].iter().all(|end| ailment(asked, nodes[*end].id()) == Ailment::OneWay));
        assert_eq!(ailment(asked, nodes[1].id()), Ailment::Ok);
    }
    let health = nodes[1].block_on(nodes[1].mesh.health()).remove(&nodes[2].id()).unwrap();
    let (hears, heard) = (nodes[0].id(), nodes[2].id());
    assert_eq!(health.detail.unwrap(), format!("{hears} hears {heard}, and {heard} does not hear {hears}"));

    cuts[0].0.lock().unwrap().insert(sites[1].config.listen);
    until("the first reaches nobody", || nodes[1].link(nodes[0].id()) == Some(LinkState::Lost));
    until("it hears them all the same", || ailment(&nodes[0], nodes[1].id()) == Ailment::OneWay);
    cuts[0].0.lock().unwrap().clear();
    all_well(&all);
}

/// A disk that says how much is free.
#[derive(Debug)]
struct Gauge {
    real: Arc<dyn Disk>,
    free: Arc<Mutex<u64>>,
}

impl Disk for Gauge {
    fn database(&self, name: &str) -> io::Result<Box<dyn redb::StorageBackend>> {
        self.real.database(name)
    }
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.real.read(name)
    }
    fn write(&self, name: &str, content: &[u8], secret: bool) -> io::Result<()> {
        self.real.write(name, content, secret)
    }
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(Some(*self.free.lock().unwrap()))
    }
}

#[test]
fn a_node_with_a_full_disk_says_so_and_stays_a_member() {
    let site = founding_sites(1).remove(0);
    let mut seams = Seams::real(site.dir.path().to_owned()).unwrap();
    let free = Arc::new(Mutex::new(5));
    seams.disk = Arc::new(Gauge { real: seams.disk, free: free.clone() });
    let node = site.start_on(seams).settled();
    until("it says so", || ailment(&node, node.id()) == Ailment::DiskFull);
    let health = node.block_on(node.mesh.health()).remove(&node.id()).unwrap();
    assert_eq!(health.detail.as_deref(), Some("5 bytes are free"));
    assert_eq!(node.status(node.id()), Some(MemberStatus::Up));
    *free.lock().unwrap() = site.config.limits.disk_free_bytes_min * 2;
    until("it is well again", || ailment(&node, node.id()) == Ailment::Ok);
}
