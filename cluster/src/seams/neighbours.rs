//! The neighbours on the local network, by multicast DNS (RFC 6762, RFC 6763). It passes on what is said as it was said:
//! what of it is believed is decided where it is read.

use std::{any::Any, io};

use mdns_sd::{Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::mpsc;

use super::{Beacon, Neighbourhood, Neighbours, Notice};

const SERVICE: &str = "_greylag._udp.local.";
/// Notices that wait to be read; more are lost, and come again when they are announced again.
const NOTICES_MAX: usize = 64;
/// Keys of one announcement that are looked at.
const PROPERTIES_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct MulticastDns;

/// Says goodbye when dropped.
struct Presence(ServiceDaemon);

impl Drop for Presence {
    fn drop(&mut self) {
        // One that does not take it any more has ended.
        let _ = self.0.shutdown();
    }
}

impl Neighbourhood for MulticastDns {
    fn enter(&self, beacon: Option<Beacon>) -> io::Result<Neighbours> {
        let daemon = ServiceDaemon::new().map_err(io::Error::other)?;
        let presence = Presence(daemon);
        if let Some(Beacon { instance, address, properties }) = beacon {
            let host = format!("{instance}.local.");
            let (ip, port) = (address.ip(), address.port());
            let info = ServiceInfo::new(SERVICE, &instance, &host, ip, port, properties.as_slice());
            let info = info.map_err(io::Error::other)?;
            presence.0.register(info).map_err(io::Error::other)?;
        }
        let events = presence.0.browse(SERVICE).map_err(io::Error::other)?;
        let (tell, heard) = mpsc::channel(NOTICES_MAX);
        tokio::spawn(pass_on(events, tell));
        let presence: Box<dyn Any + Send + Sync> = Box::new(presence);
        Ok(Neighbours { heard, presence })
    }
}

/// Until one of both ends is gone.
async fn pass_on(events: Receiver<ServiceEvent>, tell: mpsc::Sender<Notice>) {
    while let Ok(event) = events.recv_async().await {
        let notice = match event {
            ServiceEvent::ServiceResolved(service) => here(&service),
            ServiceEvent::ServiceRemoved(_, instance) => Notice::Gone { instance },
            _ => continue,
        };
        if let Err(mpsc::error::TrySendError::Closed(_)) = tell.try_send(notice) {
            return;
        }
    }
}

fn here(service: &ResolvedService) -> Notice {
    let properties = service.get_properties().iter().take(PROPERTIES_MAX);
    let pair =
        |property: &mdns_sd::TxtProperty| (property.key().to_owned(), property.val().unwrap_or_default().to_vec());
    Notice::Here { instance: service.get_fullname().to_owned(), properties: properties.map(pair).collect() }
}
