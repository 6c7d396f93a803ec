// `kill -9` of the one process of `npm start`, at any moment: the next start finishes what was begun, and no money is
// lost sight of. The server survives each kill, as it does in life.
import * as fs from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, expect, it } from "vitest";
import { sampleTenants, writeSample } from "../src/sample.ts";
import { startProvider } from "./support/llm_provider.ts";
