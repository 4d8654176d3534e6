//! What an operation takes on a host that has many networks and endpoints
//! already, beside what it takes on an empty one.
//!
//! `SAMPAN_SCALE=1000` makes as many networks and four times as many
//! endpoints; by default there are few, which shows only that nothing breaks.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod lab;

use std::time::{Duration, Instant};

use lab::{Lab, endpoint, network, sandbox};
use sampan_net::{NetworkSpec, SandboxSpec};

/// Endpoints of a sandbox, all on different networks.
const ENDPOINTS: usize = 4;

fn nth(number: usize) -> NetworkSpec {
    let gateway = format!("10.{}.{}.1/24", number / 256, number % 256);
    network(&format!("n{number}"), &format!("br-n{number}"), &gateway)
}

fn address(network: usize, host: usize) -> String {
    format!("10.{}.{}.{}", network / 256, network % 256, host + 2)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// What creating a network and attaching one endpoint to it takes. The kernel
/// removes namespaces in the background, for which others wait: nothing is
/// removed before the end.
async fn measure(lab: &Lab, first: usize) -> (Duration, Duration) {
    let (mut creates, mut attaches, mut made) = (Vec::new(), Vec::new(), Vec::new());
    for number in first..first + 15 {
        let network = nth(number);
        let begin = Instant::now();
        lab.networks.create_network(network.clone()).await.unwrap();
        creates.push(begin.elapsed());
        // Namespaces are made ahead when nobody waits.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let spec = sandbox(vec![endpoint(&network.id, &address(number, 0))], &[]);
        let begin = Instant::now();
        lab.networks.join(spec.clone()).await.unwrap();
        attaches.push(begin.elapsed());
        made.push((network, spec));
    }
    for (network, spec) in made {
        lab.networks.leave(&spec.sandbox).await.unwrap();
        lab.networks.delete_network(&network.id).await.unwrap();
    }
    lab.networks.settle().await;
    (median(creates), median(attaches))
}

#[test]
fn many_networks_and_endpoints_slow_nothing_down() {
    lab::run(|| async {
        let count: usize =
            std::env::var("SAMPAN_SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
        let lab = Lab::new().await;
        let (create, attach) = measure(&lab, 50_000).await;
        let begin = Instant::now();
        let mut networks = Vec::new();
        for number in 0..count {
            let network = nth(number);
            lab.networks.create_network(network.clone()).await.unwrap();
            networks.push(network);
        }
        println!("{count} networks in {:?}", begin.elapsed());
        let begin = Instant::now();
        let mut sandboxes: Vec<SandboxSpec> = Vec::new();
        for number in 0..count {
            let endpoints = (0..ENDPOINTS).map(|i| {
                let on = (number + i) % count;
                endpoint(&networks[on].id, &address(on, i))
            });
            let spec = sandbox(endpoints.collect(), &[]);
            lab.networks.join(spec.clone()).await.unwrap();
            sandboxes.push(spec);
        }
        println!("{} endpoints in {:?}", count * ENDPOINTS, begin.elapsed());
        let (create_many, attach_many) = measure(&lab, 51_000).await;
        println!("create: {create:?} alone, {create_many:?} among {count} networks");
        println!("attach: {attach:?} alone, {attach_many:?} among {} endpoints", count * ENDPOINTS);
        let begin = Instant::now();
        let repairs = lab.networks.reconcile(&sandboxes).await.unwrap();
        println!("reconcile: {:?}", begin.elapsed());
        assert_eq!((repairs.restored, repairs.failed), (vec![], vec![]));
        if count >= 1000 {
            assert!(attach_many < attach * 2, "{attach_many:?} against {attach:?}");
        }
    });
}
