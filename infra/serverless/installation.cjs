// The parameter `installation`; refused if this stage is another installation's here: its stack, queues and functions have the same
// names, so a deployment would take them over, and its snapshots would be swept no more. Part of serverless.yml.
"use strict";

module.exports = async ({ resolveVariable }) => {
  const [given, stage, region] = [
    await resolveVariable("param:installation"),
    await resolveVariable("sls:stage"),
    await resolveVariable("opt:region"),
  ];
  const there = await resolveVariable(`cf(${region}):kumomori-${stage}.Installation, null`);
  if (there !== null && there !== given) {
    const words = `the stage ${stage} in ${region} is that of the installation ${there}: give ${given} another --stage, or remove the other first`;
    throw Object.assign(new Error(words), { stack: words }); // osls prints the stack
  }
  return given;
};
