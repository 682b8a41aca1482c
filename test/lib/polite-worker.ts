import { getPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { tellStarter, yieldToOthers } from '../../src/os/threads.ts';

// A thread that answers every message with its priority.

yieldToOthers();
parentPort?.on('message', () => tellStarter(getPriority()));
