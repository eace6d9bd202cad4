// node run.mjs NAME: runs one scenario, and fails with its number of steps told.

const [name] = process.argv.slice(2);
const { default: scenario } = await import(new URL(`${name}.mjs`, import.meta.url));
await scenario();
console.log(`${name}: held`);
