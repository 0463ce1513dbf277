"""c. No engine, as a control: confluent-kafka's consumer and producer, dicts for state, nothing durable but the rows.

What is left when fault tolerance, partitions that move and state that survives are somebody else's problem.
"""

from tests.bench import per_event as do
from tests.bench.engine_bytewax import Visitor
from tests.bench.reading import Job, Reading


def run(job: Job) -> None:
    """Run until all events of the job are through; report."""
    from confluent_kafka import Consumer, Producer

    found, visitors, reading = do.rules(), dict[str, Visitor](), Reading(job)
    consumer = Consumer({"bootstrap.servers": job.broker, "group.id": job.group, "auto.offset.reset": "earliest"})
    producer = Producer({"bootstrap.servers": job.broker, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    consumer.subscribe([job.source])
    is_done = False
    while not is_done:
        for message in consumer.consume(500, 0.5):
            event = do.clean(do.read(message.value()), found)
            key = event.visitor
            state = visitors.get(key)
            if state is None:
                state = visitors[key] = Visitor()
            if event.event_id not in state.seen:
                state.seen.add(event.event_id)
                row = do.place(state.sessions, event, found)
                do.learn(state.profile, event, found)
                producer.produce(job.events, do.pack(event), key)
                producer.produce(job.sessions, do.pack(row), key)
                producer.produce(job.profiles, do.pack(state.profile), key)
            is_done = reading.add()
        producer.poll(0)
    producer.flush()
    reading.report()
    consumer.close()


def profiles_topic(job: Job) -> str:
    """Return where the profiles can be read."""
    return job.profiles


def visitor_of(key: bytes) -> str:
    """Return whose profile a key of that topic names."""
    return key.decode()
