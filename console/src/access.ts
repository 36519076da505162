/** Whether the gateway lets us in, and what it is set up with. */

import { signal } from "@preact/signals";
import { getModels, getSetup, Refused, type Setup } from "./api";
import { key } from "./settings";

export const setup = signal<Setup | null>(null);
/** Names of models where the key may ask but not look at the setup. */
export const modelNames = signal<readonly string[]>([]);

/** Why the key dialog is open; null while it is closed. */
export const asking = signal<string | null>(null);
/** Grows when a key was accepted: views that were refused load again. */
export const entered = signal(0);

const NEEDED = "This gateway asks for a key.";
const WRONG = "That key was not accepted.";
const NOT_ADMIN = "This key may not open the console's pages: they need an admin key. The playground can ask with it.";

/** Opens the key dialog if that is what an error calls for. */
export function wantsKey(error: unknown): boolean {
  if (!(error instanceof Refused) || (error.status !== 401 && error.status !== 403)) return false;
  asking.value = error.status === 403 ? NOT_ADMIN : key.value ? WRONG : NEEDED;
  return true;
}

/** Tries the key there is. The error is for the person; it is null where the key dialog says all. */
export async function enter(): Promise<Error | null> {
  try {
    setup.value = await getSetup();
    modelNames.value = setup.value.models.map((model) => model.name);
    asking.value = null;
    entered.value += 1;
    return null;
  } catch (error) {
    setup.value = null;
    if (error instanceof Refused && error.status === 403) await learnModels();
    return wantsKey(error) ? null : (error as Error);
  }
}

async function learnModels(): Promise<void> {
  try {
    modelNames.value = (await getModels()).data.map((model) => model.id);
  } catch {
    modelNames.value = []; // a name can be typed; what is wrong is told when it is asked
  }
}
