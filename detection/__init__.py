"""Checkpoint -> detector -> number: conversion, two engines, VOC evaluation and report."""
